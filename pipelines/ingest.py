"""Videos to latent shards: plan, encode, seal, publish. Run the same command again to continue or to check."""

import logging

from animatediff import storage
from animatediff.config import dump
from animatediff.data.card import write_card
from animatediff.data.manifest import Manifest
from animatediff.data.seal import QUARANTINE_FILE, clean_up, seal
from animatediff.errors import UserError
from pipelines.embedded import ingest_default
from pipelines.progress import Progress
from pipelines.runtime import connect, num_cpus, num_gpus, run_job
from pipelines.settings import IngestConfig
from pipelines.stages.encode import encode_units
from pipelines.stages.plan import IngestJob, prepare, read_inputs

logger = logging.getLogger(__name__)


def main(config: IngestConfig) -> Manifest:
    """Ingest a source.

    Raises:
        UserError: the source or the base cannot be read, the output holds another dataset, or too many videos are
            unusable (everything is written all the same).
    """
    logger.info("ingest: %s -> %s", config.source.uri, config.output_uri)
    inputs = read_inputs(config)
    connect()
    use_gpu = config.use_gpu if config.use_gpu is not None else num_gpus() > 0
    job = prepare(config, inputs, use_gpu=use_gpu)
    if job.sealed and job.is_sealed:
        clean_up(job.output_uri, job.units)
        logger.info("nothing to do: every video of the source is sealed already")
        manifest = job.sealed
    else:
        storage.write_bytes(storage.join(job.output_uri, "config.yaml"), dump(config).encode())
        _encode(config, job, use_gpu=use_gpu)
        manifest = seal(
            job.output_uri,
            job.units,
            job.sealed,
            identity=job.identity,
            rejected_in_plan=job.rejected,
            shard_bytes=config.shard_mb * 1_000_000,
        )
    write_card(job.output_uri, manifest, config.source.uri, config.base)
    _report(config, job, manifest)
    return manifest


def _encode(config: IngestConfig, job: IngestJob, *, use_gpu: bool) -> None:
    per_video = config.clips.windows_per_video
    total = sum(len(unit.videos) for unit in job.pending) * per_video
    if len(job.pending) < len(job.units):
        done = len(job.units) - len(job.pending)
        logger.info("continuing: %d of %d units are encoded already", done, len(job.units))
    if not job.pending:
        return
    units = encode_units(
        job.pending,
        config.clips,
        base=job.base,
        dtype=job.dtype,
        encoder_fp=job.identity.encoder_fp,
        output_uri=job.output_uri,
        num_decoders=config.num_decoders or max(1, num_cpus() // 2),
        num_encoders=config.num_encoders or max(1, num_gpus() if use_gpu else 1),
        use_gpu=use_gpu,
    )
    quarantined = 0
    with Progress("encode", total=total, unit="clip") as progress:
        for unit in units:
            quarantined += unit["num_rejected"]
            progress.update(unit["num_planned"], quarantined=quarantined)


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
        raise UserError(
            f"{rate:.0%} of the videos are quarantined, more than max_quarantine_rate "
            f"{config.max_quarantine_rate:.0%}: {reasons} (rows in {rows})"
        )


if __name__ == "__main__":
    run_job(main, IngestConfig, embedded=ingest_default)
