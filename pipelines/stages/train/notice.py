"""The notice that training workers get before they are stopped, in time for one more checkpoint.

Ray Train tells them that a machine of theirs is drained, as an autoscaler does before a spot machine is reclaimed; the
driver tells them that the job was sent a signal.
"""

import time
from typing import Any, Literal

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero

# A look costs milliseconds, of which a step of a small model has a few: so one a second, but never rarer than after so
# many steps, should these become slower of a sudden.
_EVERY_S, _MOST_STEPS = 1.0, 20


class Notice:
    """What the workers are told, the same for all of them after the same step.

    Args:
        metrics_queue: the handle of a `MetricsQueue`.
    """

    def __init__(self, metrics_queue: Any) -> None:
        self._metrics_queue = metrics_queue
        self._is_rank_zero = ray.train.get_context().get_world_rank() == 0
        self._drained: tuple[str, ...] = ()
        self._asked: Any = None
        self._stops = False
        self._num_steps, self._next_after = 0, 1
        self._looked_at = time.monotonic()

    def look(self) -> Literal["drain", "stop"] | None:
        """Return what is new since the last look, which is about a second ago; every worker calls it after every step.

        All of them look after the same step, which rank 0 chooses, and wait for one another.
        """
        self._num_steps += 1
        if self._num_steps < self._next_after:
            return None
        self._look_at_queue()
        stops, self._next_after = broadcast_from_rank_zero((self._stops, self._steps_to_next()))
        self._num_steps, self._looked_at = 0, time.monotonic()
        if stops:
            return "stop"
        info = ray.train.get_preemption_info()
        drained = tuple(info.preempted_node_ids) if info else ()
        if drained == self._drained:
            return None
        self._drained = drained
        return "drain"

    def _steps_to_next(self) -> int:
        seconds = max(time.monotonic() - self._looked_at, 1e-3)
        return min(max(1, int(self._num_steps / seconds * _EVERY_S)), _MOST_STEPS)

    def _look_at_queue(self) -> None:
        """Take the answer to an earlier question, so that no step waits for one."""
        if not self._is_rank_zero:
            return
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._stops, self._asked = ray.get(self._asked), None
        if self._asked is None:
            self._asked = self._metrics_queue.is_stopping.remote()
