"""Ingest on Ray workers: a pool of actors a stage, with progress on the terminal, and the same numbers to MLflow."""

import logging

from pipelines.cluster.runtime import num_cpus, num_gpus
from pipelines.cluster.stage import Pool, Pools
from pipelines.cluster.stage_pools import PoolWords, run_through_stages
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.decode import Decode
from pipelines.stages.ingest.encode import Encode
from pipelines.stages.ingest.plan import IngestJob
from pipelines.stages.ingest.score import Score
from pipelines.stages.ingest.seal import WHAT_IS_KEPT
from pipelines.stages.ingest.stage import IngestSpec, UnitResult
from pipelines.stages.ingest.watch import Totals, count_for_prometheus, read_state, start_tracker, write_state
from pipelines.terminal.progress import Progress
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)

_WORDS = PoolWords(
    "ingest worker", "num_encoders, num_decoders, num_scorers, clips_per_unit or decode.max_mb", WHAT_IS_KEPT
)


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
    total = sum(unit.num_videos for unit in job.pending_units)
    state = read_state(job.output_uri)
    totals = Totals.at_start(config, job, state)
    with (
        start_tracker(config, job, state, use_gpu=use_gpu) as tracker,
        Progress("encode", total=total, unit="video") as progress,
    ):

        def record_result(result: UnitResult) -> str:
            totals.add(result)
            progress.update(result.num_videos, clips=totals.num_clips, quarantined=totals.num_quarantined)
            totals.track(tracker)
            count_for_prometheus(result, metrics)
            metrics.progress(progress.num_done, total)
            metrics.set("animatediff_mlflow_up", tracker.answers)
            return result.unit_id

        write_state(job.output_uri, tracker, totals)
        try:
            pending = {unit.unit_id: unit for unit in job.pending_units}
            run_through_stages(pending, spec, pools, record_result, _WORDS)
        finally:
            totals.track(tracker, is_last=True)
            metrics.forget("animatediff_mlflow_up")  # nobody asks MLflow while shards are sealed
    write_state(job.output_uri, tracker, totals)


def _pools(config: IngestConfig, spec: IngestSpec, num_units: int, *, use_gpu: bool) -> Pools:
    decoders = min(num_units, config.num_decoders or max(1, num_cpus() // 2))
    encoders = min(num_units, config.num_encoders or max(1, num_gpus() if use_gpu else num_cpus()))
    decoding = Pool(decoders, Decode.resources(spec.device))
    encoding = Pool(encoders, Encode.resources(spec.device))
    if not config.scorers:
        return {Decode: decoding, Encode: encoding}
    left = max(0.0, num_cpus() - decoders * Decode.cpus - encoders * Encode.cpus)
    scorers = min(num_units, config.num_scorers or max(1, min(num_cpus() // 2, int(left / Score.cpus))))
    # Scorers reserve only the CPUs that decoders and encoders leave, possibly 0: Ray starts actors in stage order, so
    # scorers would otherwise take the last encoder's CPU, and it would never start.
    scoring = Pool(scorers, {"CPU": min(Score.cpus, left / scorers)})
    return {Decode: decoding, Score: scoring, Encode: encoding}
