"""The notice that training workers get before they are stopped, in time for one more checkpoint.

Ray Train tells them that a machine of theirs is drained, as an autoscaler does before a spot machine is reclaimed; the
driver tells them that the job was sent a signal.
"""

import time
from typing import Any, Literal

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero

# A poll costs milliseconds, as long as a step of a small model, so there is one a second. Steps may become slower of a
# sudden, so there is one every 20 steps at least.
_POLL_S, _MAX_STEPS = 1.0, 20


class StopNotice:
    """What the workers are told, the same for all of them after the same step.

    Args:
        worker_mailbox: the handle of a `WorkerMailbox`.
    """

    def __init__(self, worker_mailbox: Any) -> None:
        self._worker_mailbox = worker_mailbox
        self._is_rank_zero = ray.train.get_context().get_world_rank() == 0
        self._drained: tuple[str, ...] = ()
        self._asked: Any = None
        self._stops = False
        self._num_steps, self._next_after = 0, 1
        self._polled_at = time.monotonic()

    def poll(self) -> Literal["drain", "stop"] | None:
        """Return what is new since the last poll, about a second ago; every worker calls it after every step.

        All of them poll after the same step, which rank 0 chooses, and wait for one another.
        """
        self._num_steps += 1
        if self._num_steps < self._next_after:
            return None
        self._poll_mailbox()
        stops, self._next_after = broadcast_from_rank_zero((self._stops, self._steps_to_next()))
        self._num_steps, self._polled_at = 0, time.monotonic()
        if stops:
            return "stop"
        info = ray.train.get_preemption_info()
        drained = tuple(info.preempted_node_ids) if info else ()
        if drained == self._drained:
            return None
        self._drained = drained
        return "drain"

    def _steps_to_next(self) -> int:
        seconds = max(time.monotonic() - self._polled_at, 1e-3)
        return min(max(1, int(self._num_steps / seconds * _POLL_S)), _MAX_STEPS)

    def _poll_mailbox(self) -> None:
        """Take the answer to an earlier question, so that no step waits for one."""
        if not self._is_rank_zero:
            return
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._stops, self._asked = ray.get(self._asked), None
        if self._asked is None:
            self._asked = self._worker_mailbox.is_stopping.remote()
