"""The notice that training workers get before they are stopped, in time for one more checkpoint.

Ray Train tells them that a machine of theirs is drained, as an autoscaler does before a spot machine is reclaimed; the
driver tells them that the job was sent a signal.
"""

from typing import Any, Literal

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero


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

    def look(self) -> Literal["drain", "stop"] | None:
        """Return what is new since the last look; every worker looks after every step, and waits for the others."""
        self._look_at_queue()
        if broadcast_from_rank_zero(self._stops):
            return "stop"
        info = ray.train.get_preemption_info()
        drained = tuple(info.preempted_node_ids) if info else ()
        if drained == self._drained:
            return None
        self._drained = drained
        return "drain"

    def _look_at_queue(self) -> None:
        """Take the answer to an earlier question, so that no step waits for one."""
        if not self._is_rank_zero:
            return
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._stops, self._asked = ray.get(self._asked), None
        if self._asked is None:
            self._asked = self._metrics_queue.is_stopping.remote()
