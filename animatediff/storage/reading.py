"""Whether there is a file, and what it holds."""

import errno
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from animatediff.storage.errors import is_absence, printable_error, unreachable
from animatediff.storage.filesystems import filesystem
from animatediff.uris import printable_uri

PARALLEL_READS = 16
"""Requests in flight where many small pieces are read, whose time is mostly waiting."""


def exists(uri: str) -> bool:
    """Whether there is a file or folder at `uri`.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    fs, path = filesystem(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            Path(path).stat()
        else:
            # Not `exists`, to which most file systems say no whatever went wrong.
            fs.info(path)
        return True
    except Exception as error:
        if is_absence(error):
            return False
        raise unreachable(uri, error) from printable_error(error)


def read_bytes(uri: str) -> bytes:
    """Return the whole file.

    Raises:
        FileNotFoundError: there is none.
        UserError: the storage cannot be reached or refuses access.
    """
    fs, path = filesystem(uri)
    try:
        return bytes(fs.cat_file(path))
    except Exception as error:
        if is_absence(error):
            raise FileNotFoundError(errno.ENOENT, "there is no such file", printable_uri(uri)) from printable_error(
                error
            )
        raise unreachable(uri, error) from printable_error(error)
