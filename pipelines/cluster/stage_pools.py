"""Units of work through a job's stages, a pool of actors each, until all are done or too few machines are left."""

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ray

from animatediff.errors import UserError
from pipelines.cluster.runtime import BOUNDED_RETRIES
from pipelines.cluster.stage import Pools, Stage
from pipelines.cluster.starved_stages import ClusterShrankError, watch_for_starved_stages
from pipelines.cluster.worker_start import waiting_for_workers
from pipelines.terminal.failures import as_user_errors

logger = logging.getLogger(__name__)

_MAX_BLOCKS = 10_000


class PoolWords(NamedTuple):
    """What a job's user is told of its workers."""

    worker: str
    """One of them, as `ingest worker`."""
    memory_fields: str
    """The settings that decide how much memory they take."""
    what_is_kept: str
    """What is not lost when they are."""


def run_through_stages(
    pending: Mapping[str, Any], spec: Any, pools: Pools, record_result: Callable[[Any], str], words: PoolWords
) -> None:
    """Run units of work through the stages, until each is done.

    Args:
        pending: the units, by id.
        spec: what each stage's actors are constructed with.
        pools: the stages.
        record_result: called with what the last stage gives for each unit, in the order in which they are done;
            returns the unit's id.
        words: what is told.

    Raises:
        UserError: what a worker raised; what is committed stays.
    """
    left = dict(pending)

    def record(result: Any) -> None:
        del left[record_result(result)]

    while left:
        pools = _run_pools(list(left.values()), spec, pools, record, words)


def _run_pools(units: Sequence[Any], spec: Any, pools: Pools, record: Callable[[Any], None], words: PoolWords) -> Pools:
    """Run the stages until all is done, or until too few machines are left.

    Returns:
        The pools to go on with, if any unit is left.
    """
    number = sum(pool.number for pool in pools.values())
    classes = tuple(stage.__name__ for stage in pools)
    needs = list(pools.values())[-1].needs  # the last stage needs most, so what it lacks is what is reported
    try:
        with (
            as_user_errors(what_is_kept=words.what_is_kept, memory_fields=words.memory_fields),
            waiting_for_workers(
                words.worker, number, needs, classes=classes, memory_fields=words.memory_fields
            ) as end_waiting,
            watch_for_starved_stages(pools),
        ):
            for result in _results(units, spec, pools):
                end_waiting()
                record(result)
    except ClusterShrankError as shrank:
        fewer = sum(pool.number for pool in shrank.smaller_pools.values())
        logger.warning("%s: going on with %d in place of %d %ss", shrank, fewer, number, words.worker)
        return shrank.smaller_pools
    return pools


def _results(units: Sequence[Any], spec: Any, pools: Pools) -> Iterator[Any]:
    """Run the stages over `units`; yields what became of each once it is done.

    Raises:
        UserError: what a stage raised of a unit, which stays pending.
    """
    stages: list[type[Stage[Any, Any]]] = list(pools)
    rows = [{stages[0].input_column: pickle.dumps(unit), "error": ""} for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
    # A unit may take longer than Ray's half hour without progress, and so may waiting for machines.
    dataset.context.execution_no_progress_timeout_s = -1
    for stage, pool in pools.items():
        dataset = dataset.map_batches(
            stage,
            fn_constructor_args=(spec,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.number),
            num_cpus=pool.needs["CPU"],
            num_gpus=pool.needs.get("GPU", 0),
            **BOUNDED_RETRIES,
        )
    for row in dataset.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        yield pickle.loads(row[stages[-1].output_column])
