"""A source's files: patterns expanded, folders listed, lines streamed, every failure told in one line."""

import io
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import infer_compression

from animatediff import storage
from animatediff.data.sources.uris import describe
from animatediff.errors import UserError
from animatediff.uris import printable_text, printable_uri

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{},]+(?:,[^{},]+)+)\}")
_MAGIC = re.compile(r"[*?\[{]")
_CHUNK_BYTES = 1 << 20


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
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"there is no file {name} (source.uri)") from error
    except Exception as error:  # each storage has its own
        raise storage.unreachable(name, OSError(describe(error))) from error


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


def expand(uri: str) -> list[str]:
    """The files that `uri` names: one, those of its brace ranges, or those that its `*`, `?` and `[]` match, sorted.

    Raises:
        UserError: nothing matches, or the storage cannot be reached.
    """
    if is_file(uri):
        return [uri]
    return [file for plain in _expand_braces(uri) for file in _glob(plain)]


def _expand_braces(uri: str) -> list[str]:
    match = _BRACES.search(uri)
    if not match:
        return [uri]
    first, last, names = match.groups()
    choices = names.split(",") if names else [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return [full for choice in choices for full in _expand_braces(uri[: match.start()] + choice + uri[match.end() :])]


def _glob(uri: str) -> list[str]:
    # A web server lists nothing to match with, and "?" starts its query.
    if uri.startswith(("http://", "https://")) or not re.search(r"[*?\[]", uri):
        return [uri]
    with told(uri):
        fs, path = storage.filesystem(uri)
        found = sorted(fs.glob(path))
    if not found:
        raise UserError(f"no file matches {printable_uri(uri)} (source.uri)")
    return found if isinstance(fs, LocalFileSystem) else [fs.unstrip_protocol(name) for name in found]


def list_folder(uri: str) -> list[str]:
    """Paths, relative to the folder, of the files below it, sorted; hidden ones (`.part`, `._a.mp4`) are left out."""
    with told(uri):
        names = storage.find_files(uri)
        # Object stores keep what they listed, about a kilobyte a file.
        storage.filesystem(uri)[0].invalidate_cache()
    return [name for name in names if not posixpath.basename(name).startswith(".")]


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
    with opened(uri, compression=infer_compression(_file_name(uri))) as file:
        # fsspec's own files split lines in Python, slowly.
        reader = io.BufferedReader(file, _CHUNK_BYTES)
        is_first = True
        while True:
            with told(uri):
                lines = reader.readlines(_CHUNK_BYTES)
            if not lines:
                return
            if is_first:
                lines[0], is_first = lines[0].removeprefix(b"\xef\xbb\xbf"), False
            yield from lines


def no_ranges(uri: str) -> UserError:
    """The one line for a server that cannot serve a part of a file."""
    return UserError(f"the server of {printable_uri(uri)} serves no byte ranges, which tars and Parquet need: copy it")
