"""Curation on Ray workers: files are scanned, then selected shots captioned, with progress on the terminal."""

import hashlib
import logging
from collections.abc import Iterator

import pyarrow as pa

from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.captioning.endpoint import find_model
from animatediff.data.curation import caption_parts
from animatediff.data.curation.caption_parts import ShotCaption
from animatediff.errors import UserError
from pipelines.cluster.runtime import num_cpus, num_gpus, wants_gpus
from pipelines.cluster.stage import Pool
from pipelines.cluster.stage_pools import PoolWords, run_through_stages
from pipelines.settings import CurateConfig
from pipelines.stages.curate.caption import Caption
from pipelines.stages.curate.plan import CurateJob, caption_settings
from pipelines.stages.curate.scan import Scan
from pipelines.stages.curate.stage import CaptionBatch, CaptionBatchResult, CaptionSpec, ScanResult, ScanSpec
from pipelines.stages.curate.watch import Watch
from pipelines.terminal.progress import Progress

logger = logging.getLogger(__name__)

WHAT_IS_KEPT = "what is scanned and captioned is kept, and the same command goes on"
"""What a job that ends in any stage says of its work."""
_BATCH_SHOTS = 32
"""Shots that are asked for and committed together: a kill costs the answers of one batch a worker."""
_MOST_CLIENTS = 8
"""Workers that ask one server, each with `captions.concurrency` requests: more would only wait for it."""
_LEFT_OUT = ("video", "phashes")


def warn_of_a_silent_server(config: CurateConfig) -> None:
    """Warn if the server that is to write the captions does not answer yet: it is needed when all is scanned."""
    if config.captions is None or config.captions.url is None:
        return
    try:
        find_model(config.captions)
    except UserError as error:
        logger.warning("%s; videos are scanned all the same, and then it is asked again", error)


def scan(config: CurateConfig, job: CurateJob, watch: Watch) -> None:
    """Scan the pending units and commit their shots.

    Raises:
        UserError: what a worker raised; what is committed stays.
    """
    if num_done := len(job.units) - len(job.pending_units):
        logger.info("continuing: %d of %d units are scanned already", num_done, len(job.units))
    if not job.pending_units:
        return
    outage_s = None if config.quarantine_unreachable else config.max_outage_s
    spec = ScanSpec(job.output_uri, config.shots, config.scan, config.source.trusted, outage_s)
    number = min(len(job.pending_units), config.num_scanners or max(1, num_cpus()))
    total = sum(unit.num_videos for unit in job.pending_units)
    words = PoolWords("scan worker", "num_scanners or scan.memory_mb", WHAT_IS_KEPT)
    with Progress("scan", total=total, unit="video") as progress:

        def record(result: ScanResult) -> str:
            watch.add_scan(result)
            progress.update(result.num_videos, shots=watch.num_shots, hours=round(watch.hours, 2))
            watch.progress(progress.num_done, total)
            return result.unit_id

        pending = {unit.unit_id: unit for unit in job.pending_units}
        run_through_stages(pending, spec, {Scan: Pool(number, Scan.resources("cpu"))}, record, words)


def caption(config: CurateConfig, job: CurateJob, selected: pa.Table, watch: Watch) -> dict[str, ShotCaption]:
    """Ask for the captions of the selected shots that have none; returns all answers by shot id.

    Raises:
        UserError: what a worker raised, for example that the server does not answer; what is committed stays.
    """
    if config.captions is None or job.generation is None:
        return {}
    answers = caption_parts.read(job.output_uri, job.generation)
    if not answers:
        caption_parts.begin_generation(job.output_uri, job.generation, caption_settings(config), _carried(config, job))
        answers = caption_parts.read(job.output_uri, job.generation)
    is_answered = pa.array([shot_id in answers for shot_id in selected["shot_id"].to_pylist()], pa.bool_())
    num_done = sum(is_answered.to_pylist())
    pending = selected.filter(pa.compute.invert(is_answered))
    if num_done:
        logger.info("continuing: %d of %d selected shots are captioned already", num_done, len(selected))
    if len(pending):
        _ask(config, config.captions, job, pending, watch)
        answers = caption_parts.read(job.output_uri, job.generation)
    return answers


def _carried(config: CurateConfig, job: CurateJob) -> list[ShotCaption]:
    """Return the answers of the generation before that stay when only failed ones are asked for again."""
    if config.recaption != "failed" or not job.generation:
        return []
    return [answer for answer in caption_parts.read(job.output_uri, job.generation - 1).values() if not answer.reason]


def _ask(config: CurateConfig, captions: CaptionConfig, job: CurateJob, pending: pa.Table, watch: Watch) -> None:
    assert job.generation is not None
    if captions.url is not None:
        captions = captions.model_copy(update={"model": find_model(captions)})
    runs_models = captions.transformers is not None or captions.tags.folder is not None
    use_gpu = runs_models and wants_gpus(config.use_gpu)
    device = "cuda" if use_gpu else "cpu"
    spec = CaptionSpec(job.output_uri, job.generation, captions, config.scan, device, config.source.trusted)
    batches = {batch.batch_id: batch for batch in _batches(job, pending)}
    most = num_gpus() if use_gpu else num_cpus() if runs_models else min(_MOST_CLIENTS, num_cpus() // 2)
    number = min(len(batches), config.num_captioners or max(1, most))
    words = PoolWords("caption worker", "num_captioners, captions.frames or captions.side", WHAT_IS_KEPT)
    total = len(pending)
    told: set[str] = set()
    with Progress("caption", total=total, unit="shot") as progress:

        def record(result: CaptionBatchResult) -> str:
            watch.add_captions(result)
            progress.update(len(batches[result.batch_id].shots), refused=watch.num_refused)
            watch.progress(progress.num_done, total)
            for reason in result.examples.keys() - told:
                logger.warning("%s, for example %s", reason, result.examples[reason])
            told.update(result.examples)
            return result.batch_id

        run_through_stages(batches, spec, {Caption: Pool(number, Caption.resources(device))}, record, words)


def _batches(job: CurateJob, pending: pa.Table) -> Iterator[CaptionBatch]:
    columns = pending.drop_columns(list(_LEFT_OUT))
    for start in range(0, len(columns), _BATCH_SHOTS):
        shots = columns.slice(start, _BATCH_SHOTS).to_pylist()
        for shot in shots:
            shot["uri"] = job.unredacted_uris.of(shot["video_id"], shot["uri"])
        batch_id = hashlib.sha256("\n".join(shot["shot_id"] for shot in shots).encode()).hexdigest()[:16]
        yield CaptionBatch(batch_id, shots)
