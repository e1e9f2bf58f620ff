"""A source's files: what their names say, opened, and their lines streamed; every failure told in one line."""

import codecs
import io
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, AnyStr
from urllib.parse import urlsplit

from fsspec.compression import compr
from fsspec.utils import infer_compression

from animatediff import storage
from animatediff.data.sources.encodings import MARKING, decode_line, extends_ascii, table_codec
from animatediff.data.sources.fetching.local import local_path, open_regular
from animatediff.data.sources.limits import MAX_LINE_BYTES, MAX_SKIPPED_BYTES
from animatediff.errors import UserError
from animatediff.storage.errors import is_absence, printable_error, unreachable
from animatediff.uris import printable_text, printable_uri

_MAGIC = re.compile(r"[*?\[{]")
_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 32


@contextmanager
def errors_named(uri: str) -> Iterator[None]:
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
            raise UserError(f"there is no file {name} (source.uri)") from printable_error(error)
        raise unreachable(name, error) from printable_error(error)


def suffix_of(uri: str) -> str:
    """Return the file's suffix in lower case, without that of a compression: `.csv` of `a.CSV.gz`."""
    stem, suffix = posixpath.splitext(_file_name(uri))
    return (posixpath.splitext(stem)[1] if infer_compression(stem + suffix) else suffix).lower()


def _file_name(uri: str) -> str:
    path = urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri
    return posixpath.basename(path.rstrip("/"))


def root_of(uri: str) -> str:
    """Return the folder that the files of a pattern are named from: the last one that the pattern leaves fixed."""
    return posixpath.dirname(uri if is_file(uri) else _MAGIC.split(uri, maxsplit=1)[0])


def is_file(uri: str) -> bool:
    """Whether `uri` names one file to the letter: a local name may hold the characters of patterns."""
    return not _MAGIC.search(uri) or ("://" not in uri and storage.exists(uri))


@contextmanager
def opened(uri: str, **options: Any) -> Iterator[Any]:
    """Open a file for reading.

    Args:
        uri: the file.
        options: of fsspec's `open`, such as `block_size` in bytes.

    Raises:
        UserError: it is not there, or the storage cannot be reached; reads inside the block raise their own errors.
    """
    with errors_named(uri):
        file = _open(uri, **options)
    with file:
        yield file


def _open(uri: str, *, compression: str | None = None, **options: Any) -> Any:
    path = local_path(uri)
    if path is None:
        fs, path = storage.filesystem(uri)
        return fs.open(path, "rb", compression=compression, **options)
    file = open_regular(path)
    return file if compression is None else compr[compression](file, mode="rb")


def read_lines(uri: str) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked where its suffix says `.gz`, `.bz2`, `.xz` or `.zst`.

    A byte order mark is cut.

    Raises:
        UserError: it cannot be read, it is damaged, or a line is longer than lines are.
    """
    with _buffered(uri) as reader:
        for number, line in enumerate(_lines(reader, uri), 1):
            if isinstance(line, ValueError):
                raise UserError(f"{printable_uri(uri)}, line {number}: {line}")
            yield line


def read_text_lines(uri: str, encoding: str | None) -> Iterator[str | ValueError]:
    """Yield the lines of a file as text.

    One that cannot be read as text, or is far too long, is the error that says why.

    Args:
        uri: the file, which may be compressed.
        encoding: see `SourceConfig.encoding`.

    Raises:
        UserError: it cannot be read, or it is damaged.
    """
    with _buffered(uri) as reader:
        with errors_named(uri):
            head = reader.peek(_HEAD_BYTES)[:_HEAD_BYTES]
        codec = table_codec(head)
        if codec is None and encoding is not None and not extends_ascii(encoding):
            codec = encoding
        if codec is not None:
            # There a line feed is no byte.
            text = io.TextIOWrapper(reader, codec, errors=MARKING, newline="")
            yield from (_unmarked(line, codec) for line in _bounded(text.readline, "\n", uri))
            return
        for line in _lines(reader, uri):
            try:
                yield line if isinstance(line, ValueError) else decode_line(line, encoding)
            except ValueError as error:
                yield error


@contextmanager
def _buffered(uri: str) -> Iterator[io.BufferedReader]:
    with opened(uri, compression=infer_compression(_file_name(uri))) as file:
        # fsspec's own files split lines in Python, slowly.
        yield io.BufferedReader(file, _CHUNK_BYTES)


def _lines(reader: io.BufferedReader, uri: str) -> Iterator[bytes | ValueError]:
    for number, line in enumerate(_bounded(reader.readline, b"\n", uri)):
        yield line.removeprefix(codecs.BOM_UTF8) if not number and isinstance(line, bytes) else line


def _bounded(readline: Callable[[int], AnyStr], end: AnyStr, uri: str) -> Iterator[AnyStr | ValueError]:
    """Yield the lines, each in memory by itself; one that is longer than lines are is passed over, and is an error."""
    with errors_named(uri):
        while line := readline(MAX_LINE_BYTES + 1):
            if len(line) <= MAX_LINE_BYTES:
                yield line
                continue
            length = len(line)
            while line and not line.endswith(end):
                line = readline(_CHUNK_BYTES)
                length += len(line)
                if length > MAX_SKIPPED_BYTES:
                    raise UserError(
                        f"{printable_uri(uri)} has a line of more than {MAX_SKIPPED_BYTES} bytes: it is no table"
                    )
            yield ValueError(f"it has {length} bytes, and {MAX_LINE_BYTES} are allowed")


def _unmarked(line: str | ValueError, codec: str) -> str | ValueError:
    if isinstance(line, ValueError) or "\0" not in line:
        return line
    return ValueError(f"it is not in {codec.upper()}, or holds a NUL")


def no_ranges(uri: str) -> UserError:
    """Return the one line for a server that cannot serve a part of a file."""
    return UserError(f"the server of {printable_uri(uri)} serves no byte ranges, which tars and Parquet need: copy it")
