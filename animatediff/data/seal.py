"""Seal: parts into shards, sorted and hashed, then the manifest.

Every file has a path and bytes that the plan and the parts decide, and the manifest comes last: killed anywhere, a
rerun ends with the same dataset. Units are sealed in plan order, so `Manifest.num_units` says which are.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.data import parts, quarantine, shards
from animatediff.data.manifest import Manifest, Shard, write_manifest
from animatediff.data.plan import Unit
from animatediff.data.quarantine import Rejection
from animatediff.errors import UserError

logger = logging.getLogger(__name__)

QUARANTINE_FILE = "quarantine.parquet"


@dataclass(frozen=True)
class Identity:
    """What is the same for all shards of a dataset."""

    dataset_key: str
    encoder_fp: str
    scaling_factor: float
    num_frames: int
    bucket: str


def seal(
    dataset_uri: str,
    units: list[Unit],
    sealed: Manifest | None,
    *,
    identity: Identity,
    rejected_in_plan: Iterable[Rejection],
    shard_bytes: int,
) -> Manifest:
    """Seal the units that are not sealed yet; all of them must be committed.

    Args:
        dataset_uri: the dataset's folder.
        units: the whole plan.
        sealed: the manifest so far.
        identity: what every shard's footer says.
        rejected_in_plan: videos set aside before any unit.
        shard_bytes: a shard is closed when it has reached this size.
    """
    first = sealed.num_units if sealed else 0
    new_shards = list(_write_shards(dataset_uri, units[first:], sealed, identity, shard_bytes))
    rejections = _merge_rejections(dataset_uri, units[first:], rejected_in_plan)
    all_shards = [*(sealed.shards if sealed else ()), *(shard for shard, _ in new_shards)]
    manifest = Manifest(
        dataset_key=identity.dataset_key,
        encoder_fp=identity.encoder_fp,
        scaling_factor=identity.scaling_factor,
        num_frames=identity.num_frames,
        num_units=len(units),
        num_videos=(sealed.num_videos if sealed else 0) + sum(num_videos for _, num_videos in new_shards),
        num_clips=sum(shard.num_clips for shard in all_shards),
        quarantined=quarantine.count_reasons(rejections),
        shards=all_shards,
    )
    write_manifest(dataset_uri, manifest)
    clean_up(dataset_uri, units)
    return manifest


def clean_up(dataset_uri: str, sealed_units: Iterable[Unit]) -> None:
    """Delete what is left of sealed units' parts."""
    left = parts.committed(dataset_uri)
    try:
        for unit in sealed_units:
            if unit.unit_id in left:
                parts.remove(dataset_uri, unit)
    except UserError as error:
        logger.warning("parts that are sealed already stay where they are: %s", error)


def read_quarantine(dataset_uri: str) -> pa.Table:
    """The quarantine rows of a sealed dataset.

    Raises:
        UserError: the dataset has none, because it is not sealed.
    """
    uri = storage.join(dataset_uri, QUARANTINE_FILE)
    try:
        return shards.from_parquet(storage.read_bytes(uri))
    except FileNotFoundError as error:
        raise UserError(f"there is no {uri}: ingest has not sealed this dataset") from error


def _write_shards(
    dataset_uri: str, units: list[Unit], sealed: Manifest | None, identity: Identity, shard_bytes: int
) -> Iterator[tuple[Shard, int]]:
    """Write the shards; yields each with the number of its videos."""
    footer = {
        "schema_version": str(shards.SCHEMA_VERSION),
        "dataset_key": identity.dataset_key,
        "encoder_fp": identity.encoder_fp,
        "scaling_factor": repr(identity.scaling_factor),
        "bucket": identity.bucket,
    }
    start = len(sealed.shards) if sealed else 0
    for index, table in enumerate(_group(dataset_uri, units, shard_bytes), start):
        data = shards.to_parquet(table.sort_by("clip_id"), footer)
        path = f"bucket={identity.bucket}/shard-{index:05d}.parquet"
        storage.write_bytes(storage.join(dataset_uri, path), data)
        full, rest = divmod(len(table), shards.ROW_GROUP_ROWS)
        shard = Shard(
            path=path,
            bucket=identity.bucket,
            num_clips=len(table),
            row_group_rows=[shards.ROW_GROUP_ROWS] * full + [rest] * bool(rest),
            num_bytes=len(data),
            sha256=shards.sha256(data),
        )
        yield shard, pc.count_distinct(table["video_id"]).as_py()


def _group(dataset_uri: str, units: list[Unit], shard_bytes: int) -> Iterator[pa.Table]:
    """Parts of consecutive units together, up to a shard's size; never a table without rows."""
    pending: list[pa.Table] = []
    for unit in units:
        pending.append(parts.read_part(dataset_uri, unit))
        if sum(table.nbytes for table in pending) >= shard_bytes:
            yield pa.concat_tables(pending)
            pending = []
    if sum(len(table) for table in pending):
        yield pa.concat_tables(pending)


def _merge_rejections(dataset_uri: str, units: list[Unit], in_plan: Iterable[Rejection]) -> pa.Table:
    """Add the units' rejections to the dataset's file; rows of a repeated seal replace themselves."""
    try:
        old = read_quarantine(dataset_uri)
    except UserError:
        old = quarantine.SCHEMA.empty_table()
    replaced = pa.array(["", *(unit.unit_id for unit in units)])
    kept = old.filter(pc.invert(pc.is_in(old["unit_id"], replaced)))
    new = [parts.read_rejections(dataset_uri, unit) for unit in units]
    table = pa.concat_tables([kept, quarantine.to_table(in_plan), *new])
    storage.write_bytes(storage.join(dataset_uri, QUARANTINE_FILE), shards.to_parquet(table, {}))
    return table
