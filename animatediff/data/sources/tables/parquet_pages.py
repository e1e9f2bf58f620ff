"""What the pages of a Parquet file unpack to, told by their headers alone, before any memory is taken for them.

A page of kilobytes can unpack to gigabytes, and a dictionary of one long text can stand for millions of rows.
Footer and headers are read here, not by Arrow: what it says of a damaged footer in Python may end the process.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from animatediff.data.sources.tables.thrift import Compact
from animatediff.errors import UserError
from animatediff.uris import printable_uri

_MAX_PAGE_BYTES = 512_000_000
"""Writers make pages of 1 MB; one that holds a single huge value is larger."""
_MAX_LIST_VALUES = 50_000_000
_MAX_LIST_BYTES = 2_000_000_000
_ROOM_FOR_AVERAGES = 16
_BATCH_BYTES = 64_000_000
"""Bytes of the values of a column that are unpacked at once."""
_BATCH_ROWS = 10_000
_MAX_HEADER_BYTES = 16 << 20
_HEAD_BYTES = 4096

# Of parquet.thrift: the fields of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
_TYPE, _PATH, _CHUNK_VALUES, _CHUNK_BYTES, _DATA_AT, _DICTIONARY_AT = 1, 3, 5, 7, 9, 11
_BYTE_ARRAY = 6
# And those of PageHeader, and of the headers of its kinds.
_UNPACKED, _PACKED, _DATA, _DICTIONARY, _DATA_V2 = 2, 3, 5, 7, 8
_NUM_VALUES = 1
_ENCODING = {_DATA: 2, _DATA_V2: 4}
_PLAIN, _PLAIN_DICTIONARY, _DELTA_BYTE_ARRAY, _RLE_DICTIONARY = 0, 2, 7, 8


@dataclass
class _Chunk:
    """What one column of a row group unpacks to."""

    num_values: int = 0
    largest_page: int = 0
    page_bytes: int = 0
    """Bytes of all pages whose values stand there themselves."""
    value_bytes: int = 1
    """Of a value in the page where they are the longest, on average; where values build on each other, at most."""
    dictionary_bytes: int = 0
    """Bytes of the longest text that a dictionary may hold."""
    keeps_dictionary: bool = True
    """Whether Arrow can give its values as numbers and a dictionary."""

    def add(self, header: dict[int, Any]) -> None:
        """Count one page."""
        unpacked = header.get(_UNPACKED, 0)
        self.largest_page = max(self.largest_page, unpacked)
        kind = next((kind for kind in (_DATA, _DATA_V2) if kind in header), None)
        if kind is None:
            self.dictionary_bytes = max(self.dictionary_bytes, unpacked)
            return
        number, encoding = header[kind].get(_NUM_VALUES, 0), header[kind].get(_ENCODING[kind])
        self.num_values += number
        if encoding not in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
            self.page_bytes += unpacked
            each = unpacked if encoding == _DELTA_BYTE_ARRAY else unpacked // max(1, number)
            self.value_bytes = max(self.value_bytes, each)
            self.keeps_dictionary &= encoding == _PLAIN


class Portions(NamedTuple):
    """How to read a row group in little memory."""

    rows: int
    """Rows to read at once."""
    dictionaries: list[str]
    """Paths of the columns of texts to be read as numbers and a dictionary, which has a text once for all rows."""


class Column(NamedTuple):
    """Where one column of a row group lies."""

    path: str
    """Name of the leaf: a struct's field is `column.field`."""
    is_text: bool
    num_values: int
    start: int
    """Byte of its first page."""
    num_bytes: int


def read_columns(footer: bytes, names: set[str]) -> list[list[Column]]:
    """Return the columns of these names, and those inside them, by row group.

    Raises:
        ValueError: the footer is damaged.
    """
    try:
        groups = Compact(footer).struct()[_ROW_GROUPS]
        chunks = [[chunk.get(_META_DATA) for chunk in group[_COLUMNS]] for group in groups]
        columns = [[_column(chunk) for chunk in group if chunk] for group in chunks]
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("its footer is damaged") from error
    return [[c for c in group if c.path in names or c.path.partition(".")[0] in names] for group in columns]


def _column(chunk: dict[int, Any]) -> Column:
    starts = [start for start in (chunk.get(_DICTIONARY_AT, 0), chunk[_DATA_AT]) if start > 0]
    path = b".".join(chunk[_PATH]).decode(errors="replace")
    is_text = chunk[_TYPE] == _BYTE_ARRAY
    return Column(path, is_text, chunk[_CHUNK_VALUES], min(starts, default=0), chunk[_CHUNK_BYTES])


def portions(
    file: Any, columns: list[Column], names: set[str], uri: str, *, keeps_dictionaries: bool = True
) -> Portions:
    """How to read the columns of a row group in little memory.

    Args:
        file: the open Parquet file.
        columns: the row group's.
        names: of the columns that are read.
        uri: the file's, for the message.
        keeps_dictionaries: whether the reader can do with numbers and a dictionary.

    Raises:
        UserError: one of its pages, or its lists, would take too much memory at any rate.
        ValueError: a page's header is damaged.
    """
    rows, dictionaries = _BATCH_ROWS, []
    for column in columns:
        name = column.path
        chunk = _measure(file, column)
        if chunk.largest_page > _MAX_PAGE_BYTES:
            raise _too_large(uri, name, f"a page of {chunk.largest_page} bytes")
        is_list = name not in names
        if is_list and (chunk.num_values > _MAX_LIST_VALUES or chunk.page_bytes > _MAX_LIST_BYTES):
            raise _too_large(uri, name, f"{chunk.num_values} values of {chunk.page_bytes} bytes in lists")
        if chunk.dictionary_bytes and chunk.keeps_dictionary and column.is_text and keeps_dictionaries:
            dictionaries.append(name)
        else:
            chunk.value_bytes = max(chunk.value_bytes, chunk.dictionary_bytes)
        if is_list and chunk.num_values * chunk.value_bytes > _MAX_LIST_BYTES * _ROOM_FOR_AVERAGES:
            raise _too_large(uri, name, "lists of long texts")
        rows = min(rows, max(1, _BATCH_BYTES // chunk.value_bytes))
    return Portions(rows, dictionaries)


def _too_large(uri: str, name: str, what: str) -> UserError:
    return UserError(
        f"{printable_uri(uri)} has {what} in the column {name[:100]!r}, which cannot be read in bounded memory: write "
        "it with smaller cells and pages"
    )


def _measure(file: Any, column: Column) -> _Chunk:
    chunk = _Chunk()
    at, end = column.start, column.start + column.num_bytes
    while at < end and chunk.num_values < column.num_values:
        header, length = _read_header(file, at)
        try:
            chunk.add(header)
            at += length + max(0, header.get(_PACKED, 0))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"the page header at byte {at} is damaged") from error
    return chunk


def _read_header(file: Any, at: int) -> tuple[dict[int, Any], int]:
    """Return a page's header, and its length in bytes."""
    for size in (_HEAD_BYTES, _MAX_HEADER_BYTES):
        file.seek(at)
        reader = Compact(file.read(size))
        try:
            return reader.struct(), reader.at
        except IndexError:
            continue
    raise ValueError(f"the page header at byte {at} is damaged")
