"""The ingest job on its driver: plan, encode, seal, publish."""

import logging

from animatediff import storage
from animatediff.config import dump
from animatediff.data import quarantine_table
from animatediff.data.ingest.seal import QUARANTINE_FILE, delete_sealed_parts, read_quarantine
from animatediff.data.inspection.card import write_card
from animatediff.data.manifest import Manifest
from animatediff.errors import UserError
from pipelines.cluster.runtime import connect, wants_gpus
from pipelines.outputs.file_names import CONFIG_FILE
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.dry_run import log_estimate
from pipelines.stages.ingest.launch import run_stages
from pipelines.stages.ingest.plan import (
    IngestJob,
    find_sealed_dataset,
    plan_job,
    read_inputs,
    with_decoders_of_dataset,
)
from pipelines.stages.ingest.seal import seal_job
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)


def ingest(config: IngestConfig) -> Manifest | None:
    """Do the job; see `pipelines.ingest.main`."""
    logger.info("ingest: %s -> %s", config.source.uri, config.output_uri)
    config = with_decoders_of_dataset(config)
    inputs = read_inputs(config)
    sealed_manifest = find_sealed_dataset(config, inputs)
    if config.dry_run:
        log_estimate(config, inputs, sealed_manifest)
        return None
    connect()
    use_gpu = wants_gpus(config.use_gpu)
    job = plan_job(config, inputs, use_gpu=use_gpu)
    with JobMetrics("ingest", job.output_uri) as metrics:
        metrics.set("animatediff_ingest_quarantine_limit_ratio", config.max_quarantine_rate)
        manifest = _encode_and_seal(config, job, metrics, use_gpu=use_gpu)
        write_card(job.output_uri, manifest, config.source.uri, config.base)
        _report(config, job, manifest)
    return manifest


def _encode_and_seal(config: IngestConfig, job: IngestJob, metrics: JobMetrics, *, use_gpu: bool) -> Manifest:
    if job.sealed_manifest and job.is_complete:
        delete_sealed_parts(job.output_uri, [unit.unit_id for unit in job.units])
        logger.info("nothing to do: every video of the source is sealed already")
        return job.sealed_manifest
    storage.write_bytes(storage.join(job.output_uri, CONFIG_FILE), dump(config).encode())
    run_stages(config, job, metrics, use_gpu=use_gpu)
    return seal_job(job, metrics, shard_bytes=config.shard_mb * 1_000_000)


def _report(config: IngestConfig, job: IngestJob, manifest: Manifest) -> None:
    num_bad = sum(manifest.quarantined.values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in manifest.quarantined.items()) or "none"
    logger.info(
        "dataset %s: %d clips of %d videos in %d shards; quarantined: %s",
        job.output_uri,
        manifest.num_clips,
        manifest.num_videos,
        len(manifest.shards),
        reasons,
    )
    rate = num_bad / max(1, num_bad + manifest.num_videos)
    if rate > config.max_quarantine_rate:
        rows = storage.join(job.output_uri, QUARANTINE_FILE)
        most = quarantine_table.examples(read_quarantine(job.output_uri))[0]
        raise UserError(
            f"{rate:.0%} of the videos are quarantined, more than max_quarantine_rate "
            f"{config.max_quarantine_rate:.0%}: {reasons} (rows in {rows}); {most}"
        )
