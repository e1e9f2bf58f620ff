"""The table of all items of a catalog: what people read, and what spares the next run reading the items' own files."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel, ValidationError

from animatediff import storage
from animatediff.data import parquet
from animatediff.errors import one_line
from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results.result import Result

logger = logging.getLogger(__name__)

TABLE = "results.parquet"
CHUNK = 2000
"""Rows that are held at a time."""
T = TypeVar("T")

_SIMPLE: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow_type(annotation: Any) -> pa.DataType:
    """Return the column type of a field of `Result`: nulls are allowed anywhere, a mapping is a map."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _arrow_type(arguments[0])
    if origin in (Union, UnionType):
        (other,) = (argument for argument in arguments if argument is not NoneType)
        return _arrow_type(other)
    if origin is Literal:
        return _arrow_type(type(arguments[0]))
    if origin is dict:
        return pa.map_(*map(_arrow_type, arguments))
    if origin is tuple:
        return pa.string()  # JSON
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([(name, _arrow_type(field.annotation)) for name, field in annotation.model_fields.items()])
    return _SIMPLE[annotation]


def _columns() -> list[tuple[str, pa.DataType]]:
    """Return a column for each field of `Result`: which clip it is, its settings, and what became of it."""
    identifying = Item.model_fields.keys() - RenderSettings.model_fields.keys()
    names = sorted(
        Result.model_fields, key=lambda name: name not in identifying
    )  # the sort keeps the order of equal ones
    return [(name, _arrow_type(Result.model_fields[name].annotation)) for name in names]


_SCHEMA = pa.schema([*_columns(), ("uri", pa.string())])
# Lists of settings within settings: JSON, as nobody groups by what is in them.
_JSON = frozenset(name for name, field in Result.model_fields.items() if get_origin(field.annotation) is tuple)
# What tables of earlier versions have in the place of `scores` and `score_errors`: one scorer's. `Result` reads them.
_ONE_SCORER = pa.schema(
    [("scores", pa.map_(pa.string(), pa.float64())), ("scored_by", pa.string()), ("score_error", pa.string())]
)


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
    schema = _SCHEMA
    if not data:
        return schema.empty_table().select(columns or schema.names)
    source = pa.BufferReader(data)
    try:
        there = parquet.read_metadata(source).schema.to_arrow_schema()
        schema = _version_of(there)
        wanted, lacking = columns or schema.names, _lacking(there, schema)
        table = parquet.read(source, [name for name in wanted if name not in lacking])
    except (pa.ArrowException, OSError, ValueError) as error:
        logger.warning("%s is damaged or of another version, and does not count: %s", TABLE, one_line(error))
        return schema.empty_table().select(columns or schema.names)
    columns_with_defaults = {
        name: _defaults(schema.field(name), len(table)) if name in lacking else table[name] for name in wanted
    }
    return pa.table(columns_with_defaults, schema=pa.schema([schema.field(name) for name in wanted]))


def _version_of(there: pa.Schema) -> pa.Schema:
    """Return the schema that a table was written with, and with columns that were added since."""
    if "scored_by" not in there.names:
        return _SCHEMA
    return pa.schema([*(field for field in _SCHEMA if field.name not in ("scores", "score_errors")), *_ONE_SCORER])


def _lacking(there: pa.Schema, schema: pa.Schema) -> set[str]:
    """Return the names of the columns that were added since a table was written.

    Raises:
        ValueError: it has columns of another kind, or lacks one that has no default.
    """
    if strange := sorted(set(there.names) - set(schema.names)):
        raise ValueError(f"its column {strange[0]} is not known")
    for field in schema:
        if field.name in there.names and there.field(field.name).type != field.type:
            raise ValueError(f"its column {field.name} is {there.field(field.name).type}, not {field.type}")
    lacking = set(schema.names) - set(there.names)
    fields = Result.model_fields
    if needed := sorted(name for name in lacking if name not in fields or fields[name].is_required()):
        raise ValueError(f"it has no column {needed[0]}")
    return lacking


def _defaults(column: pa.Field, number: int) -> pa.Array:
    value = Result.model_fields[column.name].get_default(call_default_factory=True)
    cell = json.dumps(value) if column.name in _JSON else _cell(value, column.type)
    return pa.array([cell] * number, column.type)


def _cell(value: Any, kind: pa.DataType) -> Any:
    """Return a value of a result as pyarrow takes it: the pairs of a map."""
    return [(key, _cell(found, kind.item_type)) for key, found in value.items()] if pa.types.is_map(kind) else value


def _value(cell: Any) -> Any:
    """Return what `_cell` was made from, with a struct as a mapping, as pyarrow gives it."""
    return {key: _value(found) for key, found in cell} if isinstance(cell, list) else cell


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
    path = next(iter(result.files.values()), None)
    values = result.model_dump() | {"uri": path and storage.join(output_uri, path)}
    values |= {name: json.dumps(values[name]) for name in _JSON}
    return {column.name: _cell(values[column.name], column.type) for column in _SCHEMA}


def to_result(row: dict[str, Any]) -> Result | None:
    """Return what a row says; None, with a warning, of one that says what no result does, such as a NaN as its fps."""
    values = {name: _value(cell) for name, cell in row.items() if name != "uri"}
    with suppress(ValueError):  # what is no JSON does not fit its field either
        values |= {name: json.loads(values[name]) for name in _JSON & values.keys()}
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
