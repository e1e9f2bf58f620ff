"""Sealing on Ray workers: shards are written side by side, and the driver publishes them."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from animatediff import storage
from animatediff.data import quarantine_table, shards
from animatediff.data.curation import scan_parts, seal
from animatediff.data.curation.manifest import ShotManifest, ShotShard, write_manifest
from animatediff.data.curation.seal import ShotShardPlan, plan_shards
from animatediff.data.curation.source_copies import SourceCopies
from animatediff.data.ingest.seal import QUARANTINE_FILE
from animatediff.data.shots.config import ScanLimits
from pipelines.cluster.runtime import num_cpus
from pipelines.settings import CurateConfig
from pipelines.stages.curate.launch import WHAT_IS_KEPT
from pipelines.stages.curate.plan import CurateJob
from pipelines.terminal.failures import as_user_errors
from pipelines.terminal.progress import Progress
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)


def seal_job(config: CurateConfig, job: CurateJob, rows: pa.Table, metrics: JobMetrics) -> ShotManifest:
    """Write the shards of the units that no shard holds yet, and publish them.

    Args:
        config: the job's.
        job: all its units are scanned.
        rows: the shots of the whole collection, with selection and captions.
        metrics: of the job.

    Raises:
        UserError: a source or the storage failed.
    """
    kept = job.kept_manifest
    ids = pa.array([unit.unit_id for unit in job.unsealed_units], pa.string())
    unsealed = rows.filter(pc.is_in(rows["unit_id"], ids))
    num_kept = len(kept.shards) if kept else 0
    shard_bytes = config.shard_mb * 1_000_000
    plans = list(plan_shards(unsealed, edition=job.edition, first_index=num_kept, shard_bytes=shard_bytes))
    new: list[ShotShard] = []
    with (
        Progress("seal", total=len(plans), unit="shard") as progress,
        as_user_errors(what_is_kept=WHAT_IS_KEPT, memory_fields="shard_mb"),
    ):
        for shard in _write_shards(config, job, plans):
            new.append(shard)
            progress.update(1)
            metrics.progress(progress.num_done, len(plans))
    manifest = _publish(job, rows, [*(kept.shards if kept else ()), *new])
    _delete_other_editions(job.output_uri, manifest)
    return manifest


def _write_shards(config: CurateConfig, job: CurateJob, plans: list[ShotShardPlan]) -> Iterator[ShotShard]:
    """Yield the shards in order; no more are being written than the cluster has CPUs."""
    remote = ray.remote(num_cpus=1, max_retries=2)(_write_shard)
    metadata = {"dataset_key": job.dataset_key}
    running: deque[ray.ObjectRef[ShotShard]] = deque()
    for plan in plans:
        if len(running) >= max(1, num_cpus()):
            yield ray.get(running.popleft())
        places = zip(plan.rows["video_id"].to_pylist(), plan.rows["uri"].to_pylist(), strict=True)
        uris = {video_id: job.unredacted_uris.of(video_id, uri) for video_id, uri in set(places)}
        copied_from = uris if config.store == "copy" else None
        running.append(
            remote.remote(job.output_uri, plan, copied_from, metadata, config.scan, trusted=config.source.trusted)
        )
    while running:
        yield ray.get(running.popleft())


def _write_shard(
    output_uri: str,
    plan: ShotShardPlan,
    uris: Mapping[str, str] | None,
    metadata: Mapping[str, str],
    limits: ScanLimits,
    *,
    trusted: bool,
) -> ShotShard:
    """Write a shard on a worker; `uris` are its videos' by id, as they are read from, None to copy none."""
    storage.use_patient_retries()
    if uris is None:
        return seal.write_shard(output_uri, plan, None, metadata)
    with SourceCopies(limits, trusted=trusted) as copies:

        def copy_video(shot: Mapping[str, Any]) -> bytes:
            return copies.copy({**shot, "uri": uris[shot["video_id"]]})

        return seal.write_shard(output_uri, plan, copy_video, metadata)


def _publish(job: CurateJob, rows: pa.Table, all_shards: list[ShotShard]) -> ShotManifest:
    rejections = _last_rejections(job, rows)
    storage.write_bytes(storage.join(job.output_uri, QUARANTINE_FILE), shards.to_parquet(rejections, {}))
    manifest = ShotManifest(
        dataset_key=job.dataset_key,
        generation=job.generation,
        selection=job.selection,
        edition=job.edition,
        num_units=len(job.units),
        num_videos=pc.count_distinct(rows["video_id"]).as_py(),
        quarantined=quarantine_table.count_reasons(rejections),
        shards=all_shards,
    )
    write_manifest(job.output_uri, manifest)
    return manifest


def _last_rejections(job: CurateJob, rows: pa.Table) -> pa.Table:
    """Return the quarantine: of a video that was tried again, only what came of the last time."""
    scanned = set(rows["video_id"].to_pylist())
    found = scan_parts.read_rejections(job.output_uri, [unit.unit_id for unit in job.units])
    last = {rejection.video_id: rejection for rejection in found if rejection.video_id not in scanned}
    return pa.concat_tables([job.rejected_in_planning, quarantine_table.to_table(last.values())])


def _delete_other_editions(output_uri: str, manifest: ShotManifest) -> None:
    """Delete shards that the manifest does not list, and drafts of writers that were killed."""
    storage.delete_drafts(output_uri)
    listed = {shard.path for shard in manifest.shards}
    there = (f"{seal.FOLDER}/{name}" for name in storage.list_files(storage.join(output_uri, seal.FOLDER)))
    storage.delete_many([storage.join(output_uri, path) for path in there if path not in listed])
