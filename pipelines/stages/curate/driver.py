"""The curate job on its driver: plan, scan, select, caption, seal, publish."""

import logging

import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.config import dump
from animatediff.data import quarantine_table
from animatediff.data.curation import scan_parts
from animatediff.data.curation.manifest import ShotManifest
from animatediff.data.curation.page import write_pages
from animatediff.data.curation.seal import with_captions
from animatediff.data.curation.selection import select, without_repeated_captions
from animatediff.data.ingest.seal import read_quarantine
from animatediff.errors import UserError
from pipelines.cluster.runtime import connect
from pipelines.outputs.file_names import CONFIG_FILE
from pipelines.settings import CurateConfig
from pipelines.stages.curate.dry_run import log_estimate
from pipelines.stages.curate.launch import caption, scan, warn_of_a_silent_server
from pipelines.stages.curate.plan import CurateJob, plan_job, read_inputs
from pipelines.stages.curate.seal import seal_job
from pipelines.stages.curate.watch import Watch
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)


def curate(config: CurateConfig) -> ShotManifest | None:
    """Do the job; see `pipelines.curate.main`."""
    logger.info("curate: %s -> %s", config.source.uri, config.output_uri)
    inputs = read_inputs(config)
    if config.dry_run:
        log_estimate(config, inputs)
        return None
    connect()
    job = plan_job(config, inputs)
    storage.write_bytes(storage.join(job.output_uri, CONFIG_FILE), dump(config).encode())
    with JobMetrics("curate", job.output_uri) as metrics:
        metrics.set("animatediff_curate_quarantine_limit_ratio", config.max_quarantine_rate)
        manifest = _curate(config, job, metrics)
        _report(config, job, manifest)
    return manifest


def _curate(config: CurateConfig, job: CurateJob, metrics: JobMetrics) -> ShotManifest:
    if job.pending_units:
        warn_of_a_silent_server(config)
    with Watch(config, job, metrics) as watch:
        scan(config, job, watch)
        rows = _selected(config, job)
        chosen = rows.filter(rows["selected"])
        logger.info("selected: %d of %d shots; not selected: %s", len(chosen), len(rows), _reasons(rows))
        answers = caption(config, job, chosen, watch)
        rows = with_captions(rows, [answers.get(shot_id) for shot_id in rows["shot_id"].to_pylist()])
        if config.captions and config.captions.is_by_a_model:
            rows = without_repeated_captions(rows, config.select.max_same_caption)
        if job.kept_manifest and not job.unsealed_units:
            logger.info("nothing to seal: every video of the source is sealed already")
            return job.kept_manifest
        manifest = seal_job(config, job, rows, metrics)
        watch.finish(manifest)
    write_pages(job.output_uri, manifest, config.source.uri)
    return manifest


def _selected(config: CurateConfig, job: CurateJob) -> pa.Table:
    rows = scan_parts.read_shots(job.output_uri, [unit.unit_id for unit in job.units])
    return select(rows, config.select)


def _reasons(rows: pa.Table) -> str:
    counts = pc.value_counts(rows.filter(pc.invert(rows["selected"]))["reason"]).to_pylist()
    return ", ".join(f"{row['counts']} {row['values']}" for row in sorted(counts, key=lambda r: -r["counts"])) or "none"


def _report(config: CurateConfig, job: CurateJob, manifest: ShotManifest) -> None:
    left_out = ", ".join(f"{number} {reason}" for reason, number in manifest.reasons.items()) or "none"
    num_bad = sum(manifest.quarantined.values())
    bad = ", ".join(f"{number} {reason}" for reason, number in manifest.quarantined.items()) or "none"
    logger.info(
        "collection %s: %d shots (%.2f h) of %d, from %d videos, in %d shards; left out: %s; quarantined: %s",
        job.output_uri,
        manifest.num_selected,
        manifest.selected_s / 3600,
        manifest.num_shots,
        manifest.num_videos,
        len(manifest.shards),
        left_out,
        bad,
    )
    if config.captions is None:
        logger.warning("no captions: name who writes them (captions.url, ...) and run the same command again")
    rate = num_bad / max(1, num_bad + manifest.num_videos)
    if rate > config.max_quarantine_rate:
        most = quarantine_table.examples(read_quarantine(job.output_uri))[0]
        raise UserError(
            f"{rate:.0%} of the videos are quarantined, more than max_quarantine_rate "
            f"{config.max_quarantine_rate:.0%}: {bad}; {most}"
        )
