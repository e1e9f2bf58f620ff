"""Ingest on Ray workers: a pool of actors a stage, with progress on the terminal, and the same numbers to MLflow."""

import logging
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

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
from pipelines.stages.ingest.stage import IngestSpec, Stage, UnitResult
from pipelines.stages.ingest.watch import Totals, export, read_state, start_tracker, write_state
from pipelines.terminal.failures import as_user_errors
from pipelines.terminal.progress import Progress
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)

_MAX_BLOCKS = 10_000
_WHAT_IS_KEPT = "what is encoded is kept, and the same command goes on"
_MEMORY_FIELDS = "num_encoders, num_decoders, num_scorers, clips_per_unit or decode.max_mb"

ActorsPerStage = Mapping[type[Stage[Any, Any]], int]
"""The stages in the order of the work, each with the number of its actors."""


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
    stages = _actors_per_stage(config, len(job.pending_units), use_gpu=use_gpu)
    needs = Encode.resources(spec)  # no stage takes more
    classes = tuple(stage.__name__ for stage in stages)
    total = sum(unit.num_videos for unit in job.pending_units)
    state = read_state(job.output_uri)
    totals = Totals.at_start(config, job, state)
    with (
        start_tracker(config, job, state, use_gpu=use_gpu) as tracker,
        Progress("encode", total=total, unit="video") as progress,
    ):
        write_state(job.output_uri, tracker, totals)
        try:
            with (
                as_user_errors(what_is_kept=_WHAT_IS_KEPT, memory_fields=_MEMORY_FIELDS),
                waiting_for_workers(
                    "ingest worker", sum(stages.values()), needs, classes=classes, memory_fields=_MEMORY_FIELDS
                ) as end_waiting,
            ):
                for result in _results(job.pending_units, spec, stages):
                    end_waiting()
                    totals.add(result)
                    progress.update(result.num_videos, clips=totals.num_clips, quarantined=totals.num_quarantined)
                    totals.track(tracker)
                    export(result, metrics)
                    metrics.progress(progress.num_done, total)
                    metrics.set("animatediff_mlflow_up", tracker.answers)
        finally:
            totals.track(tracker, is_last=True)
            metrics.forget("animatediff_mlflow_up")  # nobody asks MLflow while shards are sealed
    write_state(job.output_uri, tracker, totals)


def _actors_per_stage(config: IngestConfig, num_units: int, *, use_gpu: bool) -> ActorsPerStage:
    decoders = min(num_units, config.num_decoders or max(1, num_cpus() // 2))
    encoders = min(num_units, config.num_encoders or max(1, num_gpus() if use_gpu else num_cpus()))
    if not config.scorers:
        return {Decode: decoders, Encode: encoders}
    fitting = int(_left_for_scorers(decoders, encoders) / Score.cpus)
    scorers = config.num_scorers or max(1, min(num_cpus() // 2, fitting))
    return {Decode: decoders, Score: min(num_units, scorers), Encode: encoders}


def _left_for_scorers(decoders: int, encoders: int) -> float:
    return max(0.0, num_cpus() - decoders * Decode.cpus - encoders * Encode.cpus)


def _cpus_per_actor(stages: ActorsPerStage) -> dict[type[Stage[Any, Any]], float]:
    """Return the CPUs of one actor of each stage.

    Scorers take no more than the others leave, were it none: Ray starts a dataset's first actors first, so that scorers
    would take the last encoder's place, and it would never start.
    """
    cpus = {stage: stage.cpus for stage in stages}
    if Score in stages:
        cpus[Score] = min(Score.cpus, _left_for_scorers(stages[Decode], stages[Encode]) / stages[Score])
    return cpus


def _results(units: list[UnitRef], spec: IngestSpec, stages: ActorsPerStage) -> Iterator[UnitResult]:
    """Run the stages over `units`; yields what became of each once it is committed.

    Raises:
        UserError: the storage of a unit's videos or of the output failed, or a scorer; that unit stays pending.
    """
    rows = [{Decode.input_column: pickle.dumps(unit), "error": ""} for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
    # A unit may take longer than Ray's half hour without progress, and so may waiting for machines.
    dataset.context.execution_no_progress_timeout_s = -1
    cpus = _cpus_per_actor(stages)
    for stage, number in stages.items():
        dataset = dataset.map_batches(
            stage,
            fn_constructor_args=(spec,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=number),
            num_cpus=cpus[stage],
            num_gpus=stage.resources(spec).get("GPU", 0),
            **BOUNDED_RETRIES,
        )
    for row in dataset.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        yield pickle.loads(row[Encode.output_column])
