"""The table of all items of a catalog: what people read, and what spares the next run reading the items' own files."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import ValidationError

from animatediff import storage
from animatediff.data import parquet
from animatediff.rendering.catalog.catalog import Result

logger = logging.getLogger(__name__)

TABLE = "results.parquet"
CHUNK = 2000
"""Rows that are held at a time."""
T = TypeVar("T")

_STRINGS = pa.map_(pa.string(), pa.string())
_NUMBERS = pa.map_(pa.string(), pa.float64())
_SIZES = pa.map_(pa.string(), pa.int64())
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("digest", "entry", "model", "prompt", "negative_prompt")),
        *((name, pa.int64()) for name in ("seed", "priority", "num_inference_steps", "clip_skip")),
        *((name, pa.string()) for name in ("sampler", "timestep_spacing")),
        *((name, pa.float64()) for name in ("guidance_scale", "guidance_rescale")),
        *((name, pa.int64()) for name in ("num_frames", "width", "height")),
        ("fps", pa.float64()),
        ("context", pa.struct([("length", pa.int64()), ("overlap", pa.int64())])),
        ("loop", pa.bool_()),
        *((name, pa.string()) for name in ("status", "error", "warning")),
        ("attempts", pa.int64()),
        ("uri", pa.string()),
        *((name, _STRINGS) for name in ("files", "sha256", "model_hashes", "versions")),
        ("num_bytes", _SIZES),
        *((name, _NUMBERS) for name in ("seconds", "scores")),
        *((name, pa.string()) for name in ("scored_by", "score_error")),
    ]
)
_MAPS = [field.name for field in _SCHEMA if pa.types.is_map(field.type)]


def content(output_uri: str) -> bytes:
    """Read the table's file; empty if there is none.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    try:
        return storage.read_bytes(storage.join(output_uri, TABLE))
    except FileNotFoundError:
        return b""


def parse(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some columns of it; those that an older version did not write have their defaults.

    Returns:
        No rows where there is no table, or a damaged or foreign one, of which a warning tells.
    """
    wanted = columns or _SCHEMA.names
    if not data:
        return _SCHEMA.empty_table().select(wanted)
    source = pa.BufferReader(data)
    try:
        there = parquet.read_metadata(source).schema.to_arrow_schema()
        lacking = _lacking(there)
        table = parquet.read(source, [name for name in wanted if name not in lacking])
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.warning("%s is damaged or of another version, and does not count: %s", TABLE, reason)
        return _SCHEMA.empty_table().select(wanted)
    whole = {name: _defaults(name, len(table)) if name in lacking else table[name] for name in wanted}
    return pa.table(whole, schema=pa.schema([_SCHEMA.field(name) for name in wanted]))


def _lacking(there: pa.Schema) -> set[str]:
    """Names of the columns that were added since a table was written.

    Raises:
        ValueError: it has columns of another kind, or lacks one that has no default.
    """
    if strange := sorted(set(there.names) - set(_SCHEMA.names)):
        raise ValueError(f"its column {strange[0]} is not known")
    for field in _SCHEMA:
        if field.name in there.names and there.field(field.name).type != field.type:
            raise ValueError(f"its column {field.name} is {there.field(field.name).type}, not {field.type}")
    lacking = set(_SCHEMA.names) - set(there.names)
    if needed := sorted(name for name in lacking if name == "uri" or Result.model_fields[name].is_required()):
        raise ValueError(f"it has no column {needed[0]}")
    return lacking


def _defaults(name: str, number: int) -> pa.Array:
    value = Result.model_fields[name].get_default(call_default_factory=True)
    return pa.array([list(value.items()) if name in _MAPS else value] * number, _SCHEMA.field(name).type)


def write_table(output_uri: str, results: Iterable[Result]) -> None:
    """Write the table; the results are not held."""
    with (
        storage.write_file(storage.join(output_uri, TABLE)) as path,
        path.open("w+b") as file,
        parquet.writer(file, _SCHEMA, compression="zstd") as writer,
    ):
        for chunk in chunks(results):
            rows = [_row(result, output_uri) for result in chunk]
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))


def _row(result: Result, output_uri: str) -> dict[str, Any]:
    row = result.model_dump()
    path = next(iter(result.files.values()), None)
    return row | {name: list(row[name].items()) for name in _MAPS} | {"uri": path and storage.join(output_uri, path)}


def to_result(row: dict[str, Any]) -> Result | None:
    """Return what a row says; None, with a warning, of one that says what no result does, such as a NaN as its fps."""
    values = {name: dict(value) if name in _MAPS else value for name, value in row.items() if name != "uri"}
    try:
        return Result.model_validate(values)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        logger.warning("the row of %s in %s is no result, and does not count: its %s", row["digest"], TABLE, field)
        return None


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """Cut into lists of a size that fits in memory."""
    iterator = iter(values)
    return iter(lambda: list(islice(iterator, CHUNK)), [])
