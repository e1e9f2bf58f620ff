"""A source's files: what their names say, opened, and their lines streamed; every failure told in one line."""

import codecs
import io
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from fsspec.utils import infer_compression

from animatediff import storage
from animatediff.data.sources.encodings import decode, extends_ascii, wide_codec
from animatediff.errors import UserError
from animatediff.storage_errors import is_absence, public, unreachable
from animatediff.uris import printable_text, printable_uri

_MAGIC = re.compile(r"[*?\[{]")
_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 4096


@contextmanager
def told(uri: str) -> Iterator[None]:
    """Turn whatever the storage raises in the block into one line without secrets.

    Raises:
        UserError: there is no such file, or the storage cannot be reached or refuses access.
    """
    name = printable_uri(uri)
    try:
        yield
    except UserError as error:
        raise UserError(printable_text(str(error))) from error
    except Exception as error:  # each storage has its own
        if is_absence(error):
            raise UserError(f"there is no file {name} (source.uri)") from public(error)
        raise unreachable(name, error) from public(error)


def suffix_of(uri: str) -> str:
    """The file's suffix in lower case, without that of a compression: `.csv` of `a.CSV.gz`."""
    stem, suffix = posixpath.splitext(_file_name(uri))
    return (posixpath.splitext(stem)[1] if infer_compression(stem + suffix) else suffix).lower()


def _file_name(uri: str) -> str:
    path = urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri
    return posixpath.basename(path.rstrip("/"))


def root_of(uri: str) -> str:
    """The folder that the files of a pattern are named from: the last one that the pattern leaves fixed."""
    return posixpath.dirname(uri if is_file(uri) else _MAGIC.split(uri, maxsplit=1)[0])


def is_file(uri: str) -> bool:
    """Whether `uri` names one file to the letter: a local name may hold the characters of patterns."""
    return not _MAGIC.search(uri) or ("://" not in uri and storage.exists(uri))


@contextmanager
def opened(uri: str, **options: Any) -> Iterator[Any]:
    """The file, open for reading.

    Args:
        uri: the file.
        options: of fsspec's `open`, such as `block_size` in bytes.

    Raises:
        UserError: it is not there, or the storage cannot be reached; reads inside the block raise their own errors.
    """
    with told(uri):
        fs, path = storage.filesystem(uri)
        file = fs.open(path, "rb", **options)
    with file:
        yield file


def read_lines(uri: str) -> Iterator[bytes]:
    """The lines of a file, unpacked where its suffix says `.gz`, `.bz2`, `.xz` or `.zst`; a byte order mark is cut.

    Raises:
        UserError: it cannot be read, or it is damaged.
    """
    with _buffered(uri) as reader:
        yield from _lines(reader, uri)


def read_text_lines(uri: str, encoding: str | None) -> Iterator[str | ValueError]:
    """The lines of a file as text; one that cannot be read as text is the error that says why.

    Args:
        uri: the file, which may be compressed.
        encoding: see `SourceConfig.encoding`.

    Raises:
        UserError: it cannot be read, it is damaged, or it is in UTF-16 or UTF-32 and not all of it.
    """
    with _buffered(uri) as reader:
        with told(uri):
            head = reader.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        codec = wide_codec(head[: len(head) // 4 * 4] or head)
        if codec is None and encoding is not None and not extends_ascii(encoding):
            codec = encoding
        if codec is not None:
            # There a line feed is no byte.
            with told(uri):
                yield from io.TextIOWrapper(reader, codec, newline="")
            return
        for line in _lines(reader, uri):
            try:
                yield decode(line, encoding)
            except ValueError as error:
                yield error


@contextmanager
def _buffered(uri: str) -> Iterator[io.BufferedReader]:
    with opened(uri, compression=infer_compression(_file_name(uri))) as file:
        # fsspec's own files split lines in Python, slowly.
        yield io.BufferedReader(file, _CHUNK_BYTES)


def _lines(reader: io.BufferedReader, uri: str) -> Iterator[bytes]:
    is_first = True
    while True:
        with told(uri):
            lines = reader.readlines(_CHUNK_BYTES)
        if not lines:
            return
        if is_first:
            lines[0], is_first = lines[0].removeprefix(codecs.BOM_UTF8), False
        yield from lines


def no_ranges(uri: str) -> UserError:
    """The one line for a server that cannot serve a part of a file."""
    return UserError(f"the server of {printable_uri(uri)} serves no byte ranges, which tars and Parquet need: copy it")
