"""Parts: the committed result of one unit, its clips and its rejections in one file.

A part's existence is the only record that its unit is done. It is written atomically at a path that only the unit
decides; a unit that is encoded twice writes the same bytes twice.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.data import shards
from animatediff.data.quarantine import Reason, Rejection
from animatediff.errors import UserError

_FOLDER, _SUFFIX = "parts", ".parquet"
_REMEDY = "delete it and run ingest again, which makes it anew"


@dataclass(frozen=True)
class PartSummary:
    """What a part holds."""

    unit_id: str
    num_clips: dict[str, int]
    """By bucket."""
    num_bytes: dict[str, int]
    """Bytes of the latents, by bucket."""
    rejections: list[Rejection]


def part_uri(dataset_uri: str, unit_id: str) -> str:
    """Return the URI at which a unit is committed."""
    return storage.join(dataset_uri, _FOLDER, unit_id + _SUFFIX)


def commit(dataset_uri: str, unit_id: str, rows: list[dict[str, object]], rejections: Iterable[Rejection]) -> None:
    """Commit a unit.

    Args:
        dataset_uri: the dataset's folder.
        unit_id: the unit.
        rows: its clips, columns of `shards.SCHEMA`; absent ones are null.
        rejections: its videos that cannot be used.
    """
    table = pa.Table.from_pylist(rows, schema=shards.SCHEMA)
    buckets = sorted({str(row["bucket"]) for row in rows})
    inside = {bucket: table.filter(pc.equal(table["bucket"], bucket)) for bucket in buckets}
    footer = {
        "unit_id": unit_id,
        "num_clips": json.dumps({bucket: len(inside[bucket]) for bucket in buckets}),
        "num_bytes": json.dumps({bucket: inside[bucket]["latent"].nbytes for bucket in buckets}),
        "rejections": json.dumps([asdict(rejection) for rejection in rejections]),
    }
    storage.write_bytes(part_uri(dataset_uri, unit_id), shards.to_parquet(table, footer))


def committed_unit_ids(dataset_uri: str) -> set[str]:
    """Return the ids of the units that have a part."""
    names = storage.list_files(storage.join(dataset_uri, _FOLDER))
    return {name.removesuffix(_SUFFIX) for name in names}


def read_summaries(dataset_uri: str, unit_ids: Iterable[str]) -> list[PartSummary]:
    """Return what committed units hold, in the order given; their clips are not read.

    Raises:
        UserError: a part is missing or damaged.
    """
    with ThreadPoolExecutor(storage.PARALLEL_READS) as pool:
        return list(pool.map(lambda unit_id: _read_summary(part_uri(dataset_uri, unit_id)), unit_ids))


def _read_summary(uri: str) -> PartSummary:
    footer = shards.read_footer_at(uri, remedy=_REMEDY)
    rejections = [Rejection(**row | {"reason": Reason(row["reason"])}) for row in json.loads(footer["rejections"])]
    return PartSummary(footer["unit_id"], json.loads(footer["num_clips"]), json.loads(footer["num_bytes"]), rejections)


def read_clips(dataset_uri: str, unit_id: str, bucket: str) -> pa.Table:
    """Read a committed unit's clips of one bucket.

    Raises:
        UserError: the part is gone or damaged.
    """
    uri = part_uri(dataset_uri, unit_id)
    try:
        table = shards.read_table(uri, remedy=_REMEDY)
    except FileNotFoundError as error:
        raise UserError(f"{uri} is missing: run ingest again, which makes it anew") from error
    return shards.with_later_columns(table.filter(pc.equal(table["bucket"], bucket)))


def remove(dataset_uri: str, unit_ids: Iterable[str]) -> None:
    """Delete units' parts, once they are sealed."""
    storage.delete_many([part_uri(dataset_uri, unit_id) for unit_id in unit_ids])
