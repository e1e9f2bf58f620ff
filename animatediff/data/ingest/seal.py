"""Seal: parts into shards, sorted and hashed, then the manifest.

Every file has a path and bytes that the plan and the parts decide, and the manifest comes last: killed anywhere, a
rerun ends with the same dataset. Units are sealed in plan order, so `Manifest.num_units` says which are. A shard's
contents are known before it is written (`plan_shards`), so shards are written by as many workers as there are.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.data import quarantine_table, shards
from animatediff.data.columns import write_duplicates
from animatediff.data.ingest import parts
from animatediff.data.ingest.parts import PartSummary
from animatediff.data.manifest import Manifest, Shard, write_manifest
from animatediff.errors import UserError

logger = logging.getLogger(__name__)

QUARANTINE_FILE = "quarantine.parquet"


@dataclass(frozen=True)
class LatentEncoding:
    """How the latents of a dataset were made: the same for all its clips."""

    dataset_key: str
    vae_fingerprint: str
    """Fingerprint of the VAE's weights and the precision they were used in."""
    scaling_factor: float
    latent_channels: int
    latent_factor: int
    """Pixels to a latent's one, in height and in width."""


@dataclass(frozen=True)
class ShardPlan:
    """A shard that is to be written."""

    path: str
    """Relative to the dataset's folder."""
    bucket: str
    unit_ids: tuple[str, ...]
    """Whose clips of this bucket it holds."""


def plan_shards(
    summaries: Iterable[PartSummary], sealed_manifest: Manifest | None, *, shard_bytes: int
) -> list[ShardPlan]:
    """Put consecutive units' clips of one bucket together, until a shard has reached its size.

    Args:
        summaries: of the units to seal, in plan order.
        sealed_manifest: the manifest so far; its shards stay.
        shard_bytes: of latents, at which a shard is closed.
    """
    plans: list[ShardPlan] = []
    pending: dict[str, list[str]] = {}
    size: dict[str, int] = {}
    next_index = dict.fromkeys((shard.bucket for shard in sealed_manifest.shards) if sealed_manifest else (), 0)
    for shard in sealed_manifest.shards if sealed_manifest else ():
        next_index[shard.bucket] += 1

    def close(bucket: str) -> None:
        index = next_index.get(bucket, 0)
        next_index[bucket], size[bucket] = index + 1, 0
        path = f"bucket={bucket}/shard-{index:05d}.parquet"
        plans.append(ShardPlan(path, bucket, tuple(pending.pop(bucket))))

    for summary in summaries:
        for bucket in sorted(summary.num_clips):
            pending.setdefault(bucket, []).append(summary.unit_id)
            size[bucket] = size.get(bucket, 0) + summary.num_bytes[bucket]
            if size[bucket] >= shard_bytes:
                close(bucket)
    for bucket in sorted(pending):
        close(bucket)
    return plans


def write_shard(dataset_uri: str, plan: ShardPlan, latent_encoding: LatentEncoding) -> Shard:
    """Write one shard from its parts.

    Raises:
        UserError: a part cannot be read, or the storage cannot be written to.
    """
    table = pa.concat_tables([parts.read_clips(dataset_uri, unit_id, plan.bucket) for unit_id in plan.unit_ids])
    footer = {
        "schema_version": str(shards.SCHEMA_VERSION),
        "dataset_key": latent_encoding.dataset_key,
        "encoder_fp": latent_encoding.vae_fingerprint,
        "scaling_factor": repr(latent_encoding.scaling_factor),
        "bucket": plan.bucket,
    }
    data = shards.to_parquet(table.sort_by("clip_id"), footer)
    storage.write_bytes(storage.join(dataset_uri, plan.path), data)
    full, rest = divmod(len(table), shards.ROW_GROUP_ROWS)
    return Shard(
        path=plan.path,
        bucket=plan.bucket,
        num_clips=len(table),
        num_videos=pc.count_distinct(table["video_id"]).as_py(),
        row_group_rows=[shards.ROW_GROUP_ROWS] * full + [rest] * bool(rest),
        num_bytes=len(data),
        sha256=shards.sha256(data),
    )


def publish(
    dataset_uri: str,
    num_units: int,
    sealed_manifest: Manifest | None,
    new_shards: Sequence[Shard],
    rejections: pa.Table,
    latent_encoding: LatentEncoding,
) -> Manifest:
    """Write the quarantine and the manifest; from then on readers see the new shards.

    Args:
        dataset_uri: the dataset's folder.
        num_units: of the whole plan, all sealed now.
        sealed_manifest: the manifest so far.
        new_shards: written since.
        rejections: the dataset's whole quarantine.
        latent_encoding: what the shards' footers say.
    """
    storage.write_bytes(storage.join(dataset_uri, QUARANTINE_FILE), shards.to_parquet(rejections, {}))
    all_shards = [*(sealed_manifest.shards if sealed_manifest else ()), *new_shards]
    write_duplicates(dataset_uri, all_shards)
    manifest = Manifest(
        dataset_key=latent_encoding.dataset_key,
        encoder_fp=latent_encoding.vae_fingerprint,
        scaling_factor=latent_encoding.scaling_factor,
        latent_channels=latent_encoding.latent_channels,
        latent_factor=latent_encoding.latent_factor,
        num_units=num_units,
        num_videos=sum(shard.num_videos for shard in all_shards),
        num_clips=sum(shard.num_clips for shard in all_shards),
        quarantined=quarantine_table.count_reasons(rejections),
        shards=all_shards,
    )
    write_manifest(dataset_uri, manifest)
    return manifest


def merge_rejections(
    old: pa.Table, summaries: Iterable[PartSummary], rejected_in_planning: pa.Table, newly_sealed: Iterable[str]
) -> pa.Table:
    """Return the dataset's quarantine after sealing more units; doing it again gives the same rows.

    Args:
        old: the quarantine so far.
        summaries: of the units to seal.
        rejected_in_planning: rows of the videos that no unit has; they replace the old ones of this kind.
        newly_sealed: ids of all videos in the units to seal; their old rows no longer count.
    """
    ids = pa.array(list(newly_sealed), pa.string())
    kept = old.filter(pc.invert(pc.or_(pc.is_in(old["video_id"], ids), pc.equal(old["unit_id"], ""))))
    new = quarantine_table.to_table(rejection for summary in summaries for rejection in summary.rejections)
    return pa.concat_tables([kept, rejected_in_planning, new])


def delete_sealed_parts(dataset_uri: str, unit_ids: Iterable[str]) -> None:
    """Delete what is left of sealed units' parts, and of writers that were killed."""
    try:
        storage.delete_drafts(dataset_uri)
        left = parts.committed_unit_ids(dataset_uri)
        parts.remove(dataset_uri, [unit_id for unit_id in unit_ids if unit_id in left])
    except UserError as error:
        logger.warning("parts that are sealed already stay where they are: %s", error)


def read_quarantine(dataset_uri: str) -> pa.Table:
    """Return the quarantine rows of a sealed dataset.

    Raises:
        UserError: the dataset has none, because it is not sealed, or it is damaged.
    """
    uri = storage.join(dataset_uri, QUARANTINE_FILE)
    try:
        return shards.read_table(uri, remedy="restore it")
    except FileNotFoundError as error:
        raise UserError(f"there is no {uri}: ingest has not sealed this dataset") from error
