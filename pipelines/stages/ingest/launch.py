"""Ingest on Ray workers: a pool of actors a stage, with progress on the terminal, and the same numbers to MLflow."""

import logging
import pickle
from collections.abc import Callable, Iterator

import ray

from animatediff.data.ingest.plan import UnitRef
from animatediff.errors import UserError
from pipelines.cluster.runtime import BOUNDED_RETRIES, num_cpus, num_gpus
from pipelines.cluster.worker_start import waiting_for_workers
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.decode import Decode
from pipelines.stages.ingest.encode import Encode
from pipelines.stages.ingest.plan import IngestJob
from pipelines.stages.ingest.score import Score
from pipelines.stages.ingest.seal import WHAT_IS_KEPT
from pipelines.stages.ingest.stage import IngestSpec, UnitResult
from pipelines.stages.ingest.starved_stages import ClusterShrankError, Pool, Pools, watch_for_starved_stages
from pipelines.stages.ingest.watch import Totals, count_for_prometheus, read_state, start_tracker, write_state
from pipelines.terminal.failures import as_user_errors
from pipelines.terminal.progress import Progress
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)

_MAX_BLOCKS = 10_000
_MEMORY_FIELDS = "num_encoders, num_decoders, num_scorers, clips_per_unit or decode.max_mb"


def run_stages(config: IngestConfig, job: IngestJob, metrics: JobMetrics, *, use_gpu: bool) -> None:
    """Run the stages over the pending units: decode, score where there are scorers, encode and commit.

    Raises:
        UserError: what a worker raised; what is committed stays.
    """
    num_done = len(job.units) - len(job.pending_units)
    if num_done:
        logger.info("continuing: %d of %d units are encoded already", num_done, len(job.units))
    if not job.pending_units:
        return
    spec = IngestSpec(
        output_uri=job.output_uri,
        base=job.base,
        dtype=job.dtype,
        vae_fingerprint=job.latent_encoding.vae_fingerprint,
        clips=config.clips,
        decode=config.decode,
        scorers=config.scorers,
        device="cuda" if use_gpu else "cpu",
        trusted=config.source.trusted,
        quarantine_unreachable=config.quarantine_unreachable,
        max_outage_s=config.max_outage_s,
    )
    pools = _pools(config, spec, len(job.pending_units), use_gpu=use_gpu)
    pending = {unit.unit_id: unit for unit in job.pending_units}
    total = sum(unit.num_videos for unit in job.pending_units)
    state = read_state(job.output_uri)
    totals = Totals.at_start(config, job, state)
    with (
        start_tracker(config, job, state, use_gpu=use_gpu) as tracker,
        Progress("encode", total=total, unit="video") as progress,
    ):

        def record_result(result: UnitResult) -> None:
            del pending[result.unit_id]
            totals.add(result)
            progress.update(result.num_videos, clips=totals.num_clips, quarantined=totals.num_quarantined)
            totals.track(tracker)
            count_for_prometheus(result, metrics)
            metrics.progress(progress.num_done, total)
            metrics.set("animatediff_mlflow_up", tracker.answers)

        write_state(job.output_uri, tracker, totals)
        try:
            while pending:
                pools = _run_pools(list(pending.values()), spec, pools, record_result)
        finally:
            totals.track(tracker, is_last=True)
            metrics.forget("animatediff_mlflow_up")  # nobody asks MLflow while shards are sealed
    write_state(job.output_uri, tracker, totals)


def _run_pools(
    units: list[UnitRef], spec: IngestSpec, pools: Pools, record_result: Callable[[UnitResult], None]
) -> Pools:
    """Run the stages until all is done, or until too few machines are left.

    Returns:
        The pools to go on with, if any unit is left.
    """
    number = sum(pool.number for pool in pools.values())
    classes = tuple(stage.__name__ for stage in pools)
    try:
        with (
            as_user_errors(what_is_kept=WHAT_IS_KEPT, memory_fields=_MEMORY_FIELDS),
            waiting_for_workers(
                "ingest worker", number, pools[Encode].needs, classes=classes, memory_fields=_MEMORY_FIELDS
            ) as end_waiting,  # the encoder needs most, so what it lacks is what is reported
            watch_for_starved_stages(pools),
        ):
            for result in _results(units, spec, pools):
                end_waiting()
                record_result(result)
    except ClusterShrankError as shrank:
        fewer = sum(pool.number for pool in shrank.smaller_pools.values())
        logger.warning("%s: going on with %d in place of %d ingest workers", shrank, fewer, number)
        return shrank.smaller_pools
    return pools


def _pools(config: IngestConfig, spec: IngestSpec, num_units: int, *, use_gpu: bool) -> Pools:
    decoders = min(num_units, config.num_decoders or max(1, num_cpus() // 2))
    encoders = min(num_units, config.num_encoders or max(1, num_gpus() if use_gpu else num_cpus()))
    decoding = Pool(decoders, Decode.resources(spec))
    encoding = Pool(encoders, Encode.resources(spec))
    if not config.scorers:
        return {Decode: decoding, Encode: encoding}
    left = max(0.0, num_cpus() - decoders * Decode.cpus - encoders * Encode.cpus)
    scorers = min(num_units, config.num_scorers or max(1, min(num_cpus() // 2, int(left / Score.cpus))))
    # Scorers reserve only the CPUs that decoders and encoders leave, possibly 0: Ray starts actors in stage order, so
    # scorers would otherwise take the last encoder's CPU, and it would never start.
    scoring = Pool(scorers, {"CPU": min(Score.cpus, left / scorers)})
    return {Decode: decoding, Score: scoring, Encode: encoding}


def _results(units: list[UnitRef], spec: IngestSpec, pools: Pools) -> Iterator[UnitResult]:
    """Run the stages over `units`; yields what became of each once it is committed.

    Raises:
        UserError: the storage of a unit's videos or of the output failed, or a scorer; that unit stays pending.
    """
    rows = [{Decode.input_column: pickle.dumps(unit), "error": ""} for unit in units]
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
        yield pickle.loads(row[Encode.output_column])
