"""Parquet tables, of paths or of whole videos, and the videos inside them."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from animatediff import storage
from animatediff.data.sources.files import no_ranges, opened, root_of, told
from animatediff.data.sources.spec import Columns, SourceConfig, SourceVideo
from animatediff.data.sources.tables import (
    Mapping,
    Table,
    find_column,
    map_columns,
    missing_column,
    require_column,
)
from animatediff.data.sources.uris import ParquetCell, describe
from animatediff.errors import UserError
from animatediff.uris import printable_uri

_BATCH_ROWS = 10_000
_BYTES_GUESSES = ("bytes", "video_bytes", "video", "mp4", "data", "content")
# Whole row groups of videos would take gigabytes: where the file has small pages, a few rows are in memory at a time.
_CELL_ROWS = 8
_BUFFER_BYTES = 1 << 20


def read_parquet(uri: str, source: SourceConfig) -> Iterator[SourceVideo]:
    """The videos of one Parquet file.

    Args:
        uri: the file.
        source: its columns, and where the paths in it start.

    Raises:
        UserError: the file cannot be read, lacks a column, or holds videos without ids.
    """
    with opened(uri) as file:
        with told(uri):
            parquet = _open(file, uri)
        schema = parquet.schema_arrow
        cells = None if source.columns.video is not None else _bytes_column(schema, source.columns, uri)
        read = _read_paths(parquet, uri, source) if cells is None else _read_cells(parquet, uri, source, cells)
        yield from read


def _open(file: Any, uri: str) -> pq.ParquetFile:
    if not file.seekable():
        raise no_ranges(uri)
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise UserError(f"{printable_uri(uri)} is no Parquet file: {describe(error)}") from error
    except ValueError as error:  # fsspec's, where the server answered with the whole file
        raise no_ranges(uri) from error


def _read_paths(parquet: pq.ParquetFile, uri: str, source: SourceConfig) -> Iterator[SourceVideo]:
    mapping = map_columns(parquet.schema_arrow.names, source.columns, uri)
    table = Table(uri, (source.videos_uri or root_of(uri)).rstrip("/"), "row", mapping, source.encoding)
    names = [mapping.video, mapping.caption, mapping.id if mapping.id is not None else mapping.video]
    number = 0
    for group in range(parquet.num_row_groups):
        for columns in _read_columns(parquet, group, names, uri):
            for path, caption, name in zip(*columns, strict=True):
                yield table.video(number, path, caption, name)
                number += 1


def _read_cells(parquet: pq.ParquetFile, uri: str, source: SourceConfig, column: str) -> Iterator[SourceVideo]:
    schema = parquet.schema_arrow
    caption = require_column("caption", schema.names, source.columns, uri)
    name = find_column("id", schema.names, source.columns)
    if name is None:
        told_id = missing_column("id", source.columns.id, schema.names, uri)
        raise UserError(f"{told_id} (the videos lie in the column {column!r}, so they have no path to be named by)")
    table = Table(uri, "", "row", Mapping(name, column, caption), source.encoding)
    for group in range(parquet.num_row_groups):
        row = 0
        for columns in _read_columns(parquet, group, [caption, name], uri):
            for caption_value, id_value in zip(*columns, strict=True):
                cell = str(ParquetCell(uri, group, row, column))
                yield table.video(row, cell, caption_value, id_value)
                row += 1


def _read_columns(parquet: pq.ParquetFile, group: int, names: list[str], uri: str) -> Iterator[list[list[Any]]]:
    """Batches of a row group's rows, as one list of values a name."""
    batches = parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(dict.fromkeys(names)))
    while True:
        with told(uri):
            batch = next(batches, None)
        if batch is None:
            return
        lists = {name: _values(batch.column(name)) for name in set(names)}
        yield [lists[name] for name in names]


def _values(column: pa.Array) -> list[Any]:
    """Python's values; where a text is not in UTF-8, as some writers leave it, the bytes of all."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        return plain.cast(pa.large_binary()).to_pylist()


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
    """The type of a column, or of a struct's field named `column.field`."""
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


class _Cursor:
    """One column of one row group, read forwards: neighbours come from the same pass, in little memory."""

    def __init__(self, cell: ParquetCell) -> None:
        self.key = self.key_of(cell)
        fs, path = storage.filesystem(cell.uri)
        self._file = fs.open(path, "rb")
        parquet = pq.ParquetFile(self._file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        if cell.group >= parquet.num_row_groups:
            raise IndexError(cell.group)
        self._batches = parquet.iter_batches(_CELL_ROWS, row_groups=[cell.group], columns=[cell.column])
        # Two batches: threads that fetch ahead may ask for neighbours in another order.
        self._read: deque[tuple[int, pa.Array]] = deque(maxlen=2)

    @staticmethod
    def key_of(cell: ParquetCell) -> tuple[str, int, str]:
        """What the cells have in common that one cursor reads."""
        return cell.uri, cell.group, cell.column

    @property
    def start(self) -> int:
        """The first row that can still be given."""
        return self._read[0][0] if self._read else 0

    def value(self, row: int) -> bytes | None:
        """The value of a row that is not before `start`."""
        while row >= (end := self._end()):
            batch = next(self._batches, None)
            if batch is None:
                raise IndexError(row)
            self._read.append((end, _leaf(batch.column(0))))
        value: bytes | None = next(
            values[row - first].as_py() for first, values in reversed(self._read) if row >= first
        )
        return value

    def _end(self) -> int:
        return self._read[-1][0] + len(self._read[-1][1]) if self._read else 0

    def close(self) -> None:
        self._file.close()


def _leaf(values: pa.Array) -> pa.Array:
    """The values of a struct's only field, or of no struct."""
    return _leaf(values.flatten()[0]) if pa.types.is_struct(values.type) else values


_cursor: _Cursor | None = None
_lock = threading.Lock()


def read_cell(cell: ParquetCell) -> bytes | None:
    """The video in a cell; None for a null.

    The process keeps its place in the row group, so that the next row costs no second reading of those before it.

    Raises:
        IndexError: the file has no such row (it was replaced since it was planned).
        pyarrow.ArrowInvalid: the file is damaged.
        Exception: whatever the storage raises.
    """
    global _cursor  # noqa: PLW0603
    with _lock:
        try:
            if _cursor is None or _cursor.key != _Cursor.key_of(cell) or cell.row < _cursor.start:
                _forget()
                _cursor = _Cursor(cell)
            return _cursor.value(cell.row)
        except Exception:
            _forget()  # its place is lost
            raise


def _forget() -> None:
    global _cursor  # noqa: PLW0603
    if _cursor is not None:
        _cursor.close()
    _cursor = None
