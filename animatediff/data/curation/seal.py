"""Seal: the shots' rows and videos into shards, then the manifest.

A shard's rows are known before it is written, and its bytes are decided by them and by the sources: killed anywhere, a
rerun ends with the same collection. Shards are written by as many workers as there are.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from animatediff import storage
from animatediff.data import parquet, shards
from animatediff.data.curation.caption_parts import ShotCaption
from animatediff.data.curation.manifest import ShotShard
from animatediff.data.curation.shot_table import SCHEMA, SCHEMA_VERSION
from animatediff.data.curation.source_copies import reason_of
from animatediff.data.quarantine import VideoError

StoredAs = Literal["copy", "reference"]
"""Whether shards hold the selected shots' videos, or only where they lie in their sources."""

FOLDER = "shots"
"""Below the collection's own folder."""
_ROW_GROUP_ROWS = 16
_MOST_ROWS = 50_000

CopyVideo = Callable[[Mapping[str, Any]], bytes]
"""A row of a selected shot to its video."""


@dataclass(frozen=True)
class ShotShardPlan:
    """A shard that is to be written."""

    path: str
    """Relative to the collection's folder."""
    rows: pa.Table
    """Its shots, with captions and without videos."""


def plan_shards(rows: pa.Table, *, edition: int, first_index: int, shard_bytes: int) -> Iterator[ShotShardPlan]:
    """Yield shards of consecutive shots, each until it has reached its size.

    Args:
        rows: of the units to seal, in plan order.
        edition: of the collection.
        first_index: shards of this edition that are sealed already.
        shard_bytes: of videos, at which a shard is closed.
    """
    sizes = zip(rows["num_bytes"].to_pylist(), rows["selected"].to_pylist(), strict=True)
    start, size, index = 0, 0, first_index
    for end, (num_bytes, is_selected) in enumerate(sizes, 1):
        size += num_bytes if is_selected else 0
        if size >= shard_bytes or end - start == _MOST_ROWS or end == len(rows):
            path = f"{FOLDER}/shots-{edition:03d}-{index:05d}.parquet"
            yield ShotShardPlan(path, rows.slice(start, end - start))
            start, size, index = end, 0, index + 1


def write_shard(
    collection_uri: str, plan: ShotShardPlan, copy_video: CopyVideo | None, metadata: Mapping[str, str]
) -> ShotShard:
    """Write one shard, a few rows in memory at a time.

    Args:
        collection_uri: the collection's folder.
        plan: what is written.
        copy_video: gives the selected shots' videos; None leaves them where they are.
        metadata: of its footer.

    Raises:
        UserError: a source cannot be read any more, or the storage cannot be written to.
    """
    reasons: Counter[str] = Counter()
    selected_s = 0.0
    schema = SCHEMA.with_metadata({"schema_version": str(SCHEMA_VERSION), **metadata})
    uri = storage.join(collection_uri, plan.path)
    options = {
        "compression": {name: "none" if name == "video" else "zstd" for name in SCHEMA.names},
        "use_dictionary": ["video_id", "uri", "unit_id"],
        "write_statistics": False,
    }
    with storage.write_file(uri) as path:
        with path.open("w+b") as file, parquet.writer(file, schema, **options) as writer:
            for start in range(0, len(plan.rows), _ROW_GROUP_ROWS):
                rows = [_with_video(row, copy_video) for row in plan.rows.slice(start, _ROW_GROUP_ROWS).to_pylist()]
                reasons.update(str(row["reason"]) for row in rows if not row["selected"])
                selected_s += sum(float(row["end_s"]) - float(row["start_s"]) for row in rows if row["selected"])
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        num_bytes, digest = path.stat().st_size, shards.sha256_of_file(path)
    return ShotShard(
        path=plan.path,
        num_shots=len(plan.rows),
        reasons=dict(sorted(reasons.items())),
        selected_s=round(selected_s, 3),
        num_bytes=num_bytes,
        sha256=digest,
    )


def _with_video(row: dict[str, Any], copy_video: CopyVideo | None) -> dict[str, Any]:
    if copy_video is None or not row["selected"]:
        return row
    try:
        return row | {"video": copy_video(row)}
    except VideoError as error:
        return row | {"selected": False, "reason": reason_of(error)}


def with_captions(rows: pa.Table, answers: Sequence[ShotCaption | None]) -> pa.Table:
    """Return shots with the answers to them; one whose answer cannot be used is not selected.

    Args:
        rows: the shots, with what selection says.
        answers: that of each; None where there is none.
    """
    selected, reasons = rows["selected"].to_pylist(), rows["reason"].to_pylist()
    for index, answer in enumerate(answers):
        if answer is not None and answer.reason and selected[index]:
            selected[index], reasons[index] = False, answer.reason
    columns = {
        "selected": pa.array(selected, pa.bool_()),
        "reason": pa.array(reasons, pa.string()),
        "caption": pa.array([answer.caption if answer else None for answer in answers], pa.string()),
        "tags": pa.array([list(answer.tags) if answer else None for answer in answers], pa.list_(pa.string())),
        "caption_model": pa.array([answer.caption_model if answer else None for answer in answers], pa.string()),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), SCHEMA.field(name), values)
    return rows
