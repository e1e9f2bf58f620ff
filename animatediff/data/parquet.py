"""Parquet files that know their own checksums, so that damage at rest is told and never taken for data.

Every page has a CRC32, which Parquet itself defines and which is checked wherever the page is read (at 2 GB/s on one
core). It leaves the footer, which says where pages lie and what they hold: its SHA-256 stands in the footer itself,
taken while zeros held the digest's place. Older files have neither and are read as they are.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC = b"PAR1"
_TAIL_BYTES = 8  # the footer's length, little-endian, and the magic number
_DIGEST = b"footer_sha256"
_BLANK = b"0" * 64
# Thrift's compact form of (key, value): each a length before its bytes, and the type of the field between the two.
_MARK = _DIGEST + b"\x18" + bytes([len(_BLANK)])
_READ_AHEAD = 2**16  # bytes: most footers, and the pages of a small file, come with the first request


def write(table: pa.Table, **options: Any) -> bytes:
    """Return `table` as a Parquet file with checksums.

    Args:
        table: its schema's metadata goes into the footer.
        options: of `pyarrow.parquet.ParquetWriter`, and `row_group_size` in rows.
    """
    buffer = io.BytesIO()
    row_group_size = options.pop("row_group_size", None)
    with writer(buffer, table.schema, **options) as opened:
        opened.write_table(table, row_group_size=row_group_size)
    return buffer.getvalue()


@contextmanager
def writer(file: BinaryIO, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file with checksums, table by table.

    Args:
        file: can be read and written, and can seek.
        schema: of all tables.
        options: of `pyarrow.parquet.ParquetWriter`.
    """
    with pq.ParquetWriter(file, schema, write_page_checksum=True, **options) as opened:
        yield opened
        opened.add_key_value_metadata({_DIGEST.decode(): _BLANK.decode()})
    size = file.seek(0, io.SEEK_END)
    number = int.from_bytes(_last(file, size, _TAIL_BYTES)[:4], "little")
    footer = _last(file, size, number + _TAIL_BYTES)[:number]
    file.seek(size - _TAIL_BYTES - number + footer.rindex(_MARK) + len(_MARK))
    file.write(hashlib.sha256(footer).hexdigest().encode())


def read(source: Any, columns: Sequence[str] | None = None, *, row_group: int | None = None) -> pa.Table:
    """Read a Parquet file, or of it one row group, or some of the columns.

    Args:
        source: a binary file that can seek; only what is asked for is read from it.
        columns: names; None reads all.
        row_group: its number; None reads all.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged.
        OSError: it cannot be read.
    """
    file = pq.ParquetFile(source, metadata=read_metadata(source), page_checksum_verification=True)
    names = None if columns is None else list(columns)
    return file.read(columns=names) if row_group is None else file.read_row_group(row_group, columns=names)


def read_metadata(source: Any) -> pq.FileMetaData:
    """Read the footer of a Parquet file and compare it with its checksum.

    Args:
        source: a binary file that can seek.

    Raises:
        pyarrow.ArrowInvalid: it is damaged, or this is no Parquet file.
        OSError: it cannot be read.
    """
    size = source.seek(0, io.SEEK_END)
    tail = _last(source, size, min(size, _READ_AHEAD))
    if size < len(_MAGIC) + _TAIL_BYTES or tail[-len(_MAGIC) :] != _MAGIC:
        raise pa.ArrowInvalid("it does not end as a Parquet file does")
    wanted = int.from_bytes(tail[-_TAIL_BYTES:-4], "little") + _TAIL_BYTES
    if wanted > size - len(_MAGIC):
        raise pa.ArrowInvalid("its footer is longer than the file")
    if wanted > len(tail):
        tail = _last(source, size, wanted)
    footer = tail[-wanted:-_TAIL_BYTES]
    _check(footer)
    return pq.read_metadata(pa.BufferReader(_MAGIC + tail[-wanted:]))


def _last(source: Any, size: int, number: int) -> bytes:
    source.seek(size - number)
    return bytes(source.read(number))


def _check(footer: bytes) -> None:
    mark = footer.rfind(_MARK)
    if mark < 0:  # written before there were checksums
        return
    at = mark + len(_MARK)
    said, blank = footer[at : at + len(_BLANK)], footer[:at] + _BLANK + footer[at + len(_BLANK) :]
    if hashlib.sha256(blank).hexdigest().encode() != said:
        raise pa.ArrowInvalid("its footer has other bytes than were written")
