"""What the pages of a Parquet file unpack to, told by their headers alone, before any memory is taken for them.

A page of kilobytes can unpack to gigabytes, and a dictionary of one long text can stand for millions of rows.
The headers are Thrift's compact protocol, of which this reads what parquet.thrift's `PageHeader` needs.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from animatediff.errors import UserError
from animatediff.uris import printable_uri

_MAX_PAGE_BYTES = 512_000_000
"""Writers make pages of 1 MB; one that holds a single huge value is larger."""
_MAX_LIST_VALUES = 50_000_000
_MAX_LIST_BYTES = 2_000_000_000
_ROOM_FOR_AVERAGES = 16
_BATCH_BYTES = 64_000_000
"""Of the values of a column that are unpacked at once."""
_BATCH_ROWS = 10_000
_MAX_HEADER_BYTES = 16 << 20
_HEAD_BYTES = 4096

# Of parquet.thrift: the fields of PageHeader, and of the headers of its kinds.
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
    """Of all pages whose values stand there themselves."""
    value_bytes: int = 1
    """Of a value in the page where they are the longest, on average; where values build on each other, at most."""
    dictionary_bytes: int = 0
    """Of the longest text that a dictionary may hold."""
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
    """At once."""
    dictionaries: list[str]
    """Paths of the columns of texts to be read as numbers and a dictionary, which has a text once for all rows."""


def portions(file: Any, group: Any, names: set[str], uri: str) -> Portions:
    """How to read the columns of a row group in little memory.

    Args:
        file: the open Parquet file.
        group: pyarrow's metadata of the row group.
        names: of the columns that are read.
        uri: the file's, for the message.

    Raises:
        UserError: one of its pages, or its lists, would take too much memory at any rate.
        ValueError: a page's header is damaged.
    """
    rows, dictionaries = _BATCH_ROWS, []
    for index in range(group.num_columns):
        column = group.column(index)
        name = column.path_in_schema
        if name not in names and name.partition(".")[0] not in names:
            continue
        chunk = _measure(file, column)
        if chunk.largest_page > _MAX_PAGE_BYTES:
            raise _too_large(uri, name, f"a page of {chunk.largest_page} bytes")
        is_list = name not in names
        if is_list and (chunk.num_values > _MAX_LIST_VALUES or chunk.page_bytes > _MAX_LIST_BYTES):
            raise _too_large(uri, name, f"{chunk.num_values} values of {chunk.page_bytes} bytes in lists")
        if chunk.dictionary_bytes and chunk.keeps_dictionary and column.physical_type == "BYTE_ARRAY":
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


def _measure(file: Any, column: Any) -> _Chunk:
    chunk = _Chunk()
    starts = (column.dictionary_page_offset, column.data_page_offset)
    at = min(start for start in starts if start) if any(starts) else 0
    end = at + column.total_compressed_size
    while at < end and chunk.num_values < column.num_values:
        header, length = _read_header(file, at)
        chunk.add(header)
        at += length + max(0, header.get(_PACKED, 0))
    return chunk


def _read_header(file: Any, at: int) -> tuple[dict[int, Any], int]:
    """A page's header, and its length in bytes."""
    for size in (_HEAD_BYTES, _MAX_HEADER_BYTES):
        file.seek(at)
        reader = _Compact(file.read(size))
        try:
            return reader.struct(), reader.at
        except IndexError:
            continue
    raise ValueError(f"the page header at byte {at} is damaged")


class _Compact:
    """Reads structs of Thrift's compact protocol."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Integers and structs by the number of their field; other values are passed over.

        Raises:
            IndexError: the data ends before.
            ValueError: it is no such struct.
        """
        if depth > 8:
            raise ValueError("a header is nested without end")
        fields: dict[int, Any] = {}
        number = 0
        while byte := self._byte():
            number = number + (byte >> 4) if byte >> 4 else self._integer()
            value = self._value(byte & 15, depth)
            if value is not None:
                fields[number] = value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 12:
            return self.struct(depth + 1)
        if kind in (1, 2):  # true and false are in the type
            return None
        if kind == 8:
            self._pass(self._varint())
        elif kind in (3, 7):
            self._pass(1 if kind == 3 else 8)
        elif kind in (9, 10):
            head = self._byte()
            number = head >> 4 if head >> 4 < 15 else self._varint()
            for _ in range(min(number, len(self._data) + 1)):
                self._value(head & 15 if head & 15 not in (1, 2) else 3, depth + 1)
        else:
            raise ValueError(f"a header has a field of the unknown type {kind}")
        return None

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _pass(self, number: int) -> None:
        self.at += number
        if self.at > len(self._data):
            raise IndexError(self.at)
