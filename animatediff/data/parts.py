"""Parts: the committed result of one unit. A part's existence is the only record that its unit is done.

The quarantine rows are written first and the part last, each atomically and at a path that only the unit decides. A
kill between them costs one repetition, which writes the same bytes to the same paths.
"""

from collections.abc import Iterable

import pyarrow as pa

from animatediff import storage
from animatediff.data import quarantine, shards
from animatediff.data.plan import Unit
from animatediff.data.quarantine import Rejection

_SUFFIX = ".parquet"


def part_uri(dataset_uri: str, unit: Unit) -> str:
    """Where a unit's clips are committed."""
    return storage.join(dataset_uri, "parts", unit.unit_id + _SUFFIX)


def quarantine_uri(dataset_uri: str, unit: Unit) -> str:
    """Where a unit's rejections are committed."""
    return storage.join(dataset_uri, "quarantine", unit.unit_id + _SUFFIX)


def commit(dataset_uri: str, unit: Unit, rows: list[dict[str, object]], rejected: Iterable[Rejection]) -> None:
    """Commit a unit.

    Args:
        dataset_uri: the dataset's folder.
        unit: the unit.
        rows: its clips, with columns of `shards.SCHEMA`; absent columns are null.
        rejected: its videos that gave no clip.
    """
    rejections = shards.to_parquet(quarantine.to_table(rejected), {"unit_id": unit.unit_id})
    storage.write_bytes(quarantine_uri(dataset_uri, unit), rejections)
    table = pa.Table.from_pylist(rows, schema=shards.SCHEMA)
    footer = {"unit_id": unit.unit_id, "num_clips": str(len(rows))}
    storage.write_bytes(part_uri(dataset_uri, unit), shards.to_parquet(table, footer))


def committed(dataset_uri: str) -> set[str]:
    """Ids of the units that have a part."""
    names = storage.list_files(storage.join(dataset_uri, "parts"))
    return {name.removesuffix(_SUFFIX) for name in names}


def read_part(dataset_uri: str, unit: Unit) -> pa.Table:
    """The clips of a committed unit."""
    return shards.from_parquet(storage.read_bytes(part_uri(dataset_uri, unit)))


def read_rejections(dataset_uri: str, unit: Unit) -> pa.Table:
    """The rejections of a committed unit."""
    return shards.from_parquet(storage.read_bytes(quarantine_uri(dataset_uri, unit)))


def remove(dataset_uri: str, unit: Unit) -> None:
    """Delete a unit's part and rejections, once they are sealed."""
    storage.delete(quarantine_uri(dataset_uri, unit))
    storage.delete(part_uri(dataset_uri, unit))
