"""Parquet tables, of paths or of whole videos."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from animatediff.data.sources.files import errors_named, no_ranges, opened, root_of
from animatediff.data.sources.limits import MAX_LINE_BYTES
from animatediff.data.sources.spec import Columns, SourceConfig, SourceVideo
from animatediff.data.sources.tables.columns import (
    Mapping,
    NoText,
    Table,
    find_column,
    map_columns,
    missing_column,
    require_column,
)
from animatediff.data.sources.tables.parquet_pages import portions, read_columns
from animatediff.data.sources.uris import ParquetCell, describe
from animatediff.errors import UserError
from animatediff.uris import printable_uri

_BYTES_GUESSES = ("bytes", "video_bytes", "video", "mp4", "data", "content")
_MAX_FOOTER_BYTES = 64_000_000
"""Which become about a gigabyte in memory."""
# A megabyte of each column at once, in place of the whole row group's.
_READING: dict[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False}


def read_parquet(uri: str, source: SourceConfig) -> Iterator[SourceVideo]:
    """Yield the videos of one Parquet file.

    Args:
        uri: the file.
        source: its columns, and where the paths in it start.

    Raises:
        UserError: the file cannot be read, lacks a column, or holds videos without ids.
    """
    with opened(uri) as file:
        with errors_named(uri):
            parquet = _open(file, uri)
            schema = parquet.schema_arrow
        cells = None if source.columns.video is not None else _bytes_column(schema, source.columns, uri)
        yield from (
            _read_paths(parquet, file, uri, source) if cells is None else _read_cells(parquet, file, uri, source, cells)
        )


def _open(file: Any, uri: str) -> pq.ParquetFile:
    if not file.seekable():
        raise no_ranges(uri)
    try:
        read_footer(file, uri)
        return pq.ParquetFile(file, **_READING)
    except pa.ArrowInvalid as error:
        raise UserError(f"{printable_uri(uri)} is no Parquet file: {describe(error)}") from error
    except ValueError as error:  # fsspec's, where the server answered with the whole file
        raise error if isinstance(error, UserError) else no_ranges(uri) from error


def read_footer(file: Any, uri: str) -> bytes:
    """Whatever stands where the footer does.

    Raises:
        UserError: it is too long.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    num_bytes = int.from_bytes(file.read(4), "little")
    if _MAX_FOOTER_BYTES < num_bytes < size:
        raise UserError(
            f"{printable_uri(uri)} has a footer of {num_bytes} bytes, {_MAX_FOOTER_BYTES} are allowed: write it with "
            "fewer row groups and columns"
        )
    file.seek(max(0, size - 8 - num_bytes))
    return bytes(file.read(min(num_bytes, size)))


def _read_paths(parquet: pq.ParquetFile, file: Any, uri: str, source: SourceConfig) -> Iterator[SourceVideo]:
    mapping = map_columns(parquet.schema_arrow.names, source.columns, uri)
    table = Table.of(source, uri, "row", mapping, source.videos_uri or root_of(uri))
    names = [mapping.video, mapping.caption, mapping.id if mapping.id is not None else mapping.video]
    number = 0
    for _, columns in _read_columns(parquet, file, names, uri):
        for path, caption, name in zip(*columns, strict=True):
            yield table.video(number, path, caption, name)
            number += 1


def _read_cells(
    parquet: pq.ParquetFile, file: Any, uri: str, source: SourceConfig, column: str
) -> Iterator[SourceVideo]:
    schema = parquet.schema_arrow
    caption = require_column("caption", schema.names, source.columns, uri)
    name = find_column("id", schema.names, source.columns)
    if name is None:
        told_id = missing_column("id", source.columns.id, schema.names, uri)
        raise UserError(f"{told_id} (the videos lie in the column {column!r}, so they have no path to be named by)")
    table = Table.of(source, uri, "row", Mapping(name, column, caption), "")
    row, before = 0, 0
    for group, columns in _read_columns(parquet, file, [caption, name], uri):
        row, before = row if group == before else 0, group
        for caption_value, id_value in zip(*columns, strict=True):
            yield table.cell(row, str(ParquetCell(uri, group, row, column)), caption_value, id_value)
            row += 1


def _read_columns(
    parquet: pq.ParquetFile, file: Any, names: list[str], uri: str
) -> Iterator[tuple[int, list[list[Any]]]]:
    """Batches of rows, as the row group's number and one list of values a name."""
    wanted = list(dict.fromkeys(names))
    with errors_named(uri):
        for name in wanted:
            if parquet.schema_arrow.names.count(name) > 1:
                raise UserError(f"{printable_uri(uri)} has several columns {name!r}: name them apart")
        for group, columns in enumerate(read_columns(read_footer(file, uri), set(wanted))):
            rows, texts = portions(file, columns, set(wanted), uri)
            reader = pq.ParquetFile(file, metadata=parquet.metadata, read_dictionary=texts, **_READING)
            batches = reader.iter_batches(rows, row_groups=[group], columns=wanted, use_threads=False)
            while (batch := next(batches, None)) is not None:
                lists = {name: _values(batch.column(name)) for name in wanted}
                yield group, [lists[name] for name in names]


def _values(column: pa.Array) -> list[Any]:
    """Python's values, and in place of what can be no caption, id or path what is there.

    Where a text is not in UTF-8, as some writers leave it, the bytes of all.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = _values(column.dictionary)
        return [None if index is None else values[index] for index in column.indices.to_pylist()]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.list_value_length(column).to_pylist()
        what_is_there = [None if length is None else NoText.list_of(length) for length in lengths]
        firsts = iter(_values(column.filter(pc.equal(pc.list_value_length(column), 1)).flatten()))
        return [next(firsts) if length == 1 else what for length, what in zip(lengths, what_is_there, strict=True)]
    if pa.types.is_nested(kind):
        return [NoText("a dict") if is_there else None for is_there in column.is_valid().to_pylist()]
    if not (_is_binary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return _plain(column)
    lengths = pc.binary_length(column)
    if (pc.max(lengths).as_py() or 0) <= MAX_LINE_BYTES:
        return _plain(column)
    pairs = zip(lengths.to_pylist(), repeat(column), range(len(column)), strict=False)
    return [
        NoText(f"a text of {length} bytes") if (length or 0) > MAX_LINE_BYTES else _plain(of.slice(index, 1))[0]
        for length, of, index in pairs
    ]


def _plain(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(pa.large_binary()).to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # times that Python does not know
        return [NoText(f"a {column.type}")] * len(column)


def _bytes_column(schema: pa.Schema, columns: Columns, uri: str) -> str | None:
    """Path of the column that holds videos, if any."""
    if columns.bytes is not None:
        if not _is_binary(_type_at(schema, columns.bytes)):
            raise missing_column("bytes", columns.bytes, _binary_columns(schema), uri)
        return columns.bytes
    there = _binary_columns(schema)
    guesses = [path for guess in _BYTES_GUESSES for path in (guess, f"{guess}.bytes")]
    return next((path for path in guesses if path in there), None)


def _binary_columns(schema: pa.Schema) -> list[str]:
    paths = [name for name in schema.names if _is_binary(_type_at(schema, name))]
    nested = [f"{name}.bytes" for name in schema.names]
    return paths + [path for path in nested if _is_binary(_type_at(schema, path))]


def _type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """Return the type of a column, or of a struct's field named `column.field`."""
    index = schema.get_field_index(path)
    if index >= 0:
        return schema.field(index).type
    parent, _, field = path.rpartition(".")
    index = schema.get_field_index(parent)
    if index < 0 or not pa.types.is_struct(schema.field(index).type):
        return None
    struct = schema.field(index).type
    return struct.field(field).type if struct.get_field_index(field) >= 0 else None


def _is_binary(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
