"""Find stages that wait in vain as machines were lost for good, and smaller pools for the cluster that is left.

Ray starts the actors of a lost machine anew wherever there is room, whichever comes first. Those of one stage can take
all of it, and then wait for ever for the work of another stage, which waits for room.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.state import actors
from ray.exceptions import RayError

from animatediff.errors import UserError
from pipelines.cluster.stage import Pools, Stage
from pipelines.terminal import interrupts

logger = logging.getLogger(__name__)

_EVERY_S = 10.0
# An autoscaler or a spot market may bring another machine in the meantime.
_PATIENCE_S = 180.0


class ClusterShrankError(UserError):
    """A stage has had no room for minutes, on a cluster that has become too small for all actors.

    Args:
        smaller_pools: those that it has room for.
    """

    def __init__(self, smaller_pools: Pools) -> None:
        super().__init__("the machines that are left have no room for every stage")
        self.smaller_pools = smaller_pools


@contextmanager
def watch_for_starved_stages(pools: Pools) -> Iterator[None]:
    """Watch the stages while they are at work.

    Raises:
        ClusterShrankError: one of them waits in vain for the room that others have taken.
    """
    ended = threading.Event()
    with interrupts.stoppable() as stop:
        threading.Thread(target=_watch, args=(pools, ended, stop), daemon=True, name="starved-stages").start()
        try:
            yield
        finally:
            ended.set()


def _watch(pools: Pools, ended: threading.Event, stop: Callable[[UserError], None]) -> None:
    were_up: set[type[Stage[Any, Any]]] = set()
    all_had_room_at = time.monotonic()
    while not ended.wait(_EVERY_S):
        try:
            states = actor_states(pools)
            smaller_pools = shrink_to_fit(pools, ray.cluster_resources())
        except (RayError, OSError, ValueError) as error:  # the work itself meets it as well, and ends by it
            logger.debug("%s", error)
            continue
        # A stage that never had room waits for machines that are still to come.
        were_up |= {stage for stage, found in states.items() if "ALIVE" in found}
        if smaller_pools is None or not any(states[stage] and "ALIVE" not in states[stage] for stage in were_up):
            all_had_room_at = time.monotonic()
        elif time.monotonic() - all_had_room_at > _PATIENCE_S:
            stop(ClusterShrankError(smaller_pools))
            return


def actor_states(pools: Pools) -> dict[type[Stage[Any, Any]], set[str]]:
    """Return the states of each stage's actors, by Ray's names; none of a stage that is done."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    living = [actor for actor in actors(job_id=job).values() if actor["State"] != "DEAD"]
    return {
        stage: {actor["State"] for actor in living if f"({stage.__name__})" in actor["ActorClassName"]}
        for stage in pools
    }


def shrink_to_fit(pools: Pools, total: Mapping[str, float]) -> Pools | None:
    """Return smaller pools that a cluster has room for; None if it has room for these, or not even for one of each.

    Args:
        pools: the actors now.
        total: what the cluster has, by Ray's names.
    """
    share = min((total.get(name, 0) / amount for name, amount in _sum(pools).items() if amount), default=1.0)
    if share >= 1:
        return None
    smaller_pools = {stage: pool._replace(number=max(1, int(pool.number * share))) for stage, pool in pools.items()}
    return smaller_pools if all(total.get(name, 0) >= amount for name, amount in _sum(smaller_pools).items()) else None


def _sum(pools: Pools) -> dict[str, float]:
    names = {name for pool in pools.values() for name in pool.needs}
    return {name: sum(pool.number * pool.needs.get(name, 0) for pool in pools.values()) for name in names}
