"""Local files: regular ones alone, because to open a pipe or to read a device may never end."""

import errno
import os
import stat
from typing import BinaryIO

from fsspec.implementations.local import LocalFileSystem

_PROTOCOLS = ("file", "local")


class NotRegularError(OSError):
    """There is something else at the path: a pipe, a device, a socket."""


def local_path(uri: str) -> str | None:
    """Return the path of a local file; None for what lies elsewhere."""
    protocol, separator, path = uri.partition("://")
    if separator and protocol.lower() not in _PROTOCOLS:
        return None
    return str(LocalFileSystem._strip_protocol(path if separator else uri))


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading, or one that a link leads to.

    Raises:
        NotRegularError: it is a pipe, a device or a socket. Nothing is waited for.
        OSError: it is a folder, not there, or cannot be read.
        ValueError: the path has a NUL.
    """
    # To open a device can do something already. What was looked at may be another thing by the time it is opened.
    _require_regular(os.stat(path), path)  # noqa: PTH116
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _require_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(errno.EINVAL, "it is no regular file", path)


def size_of(file: BinaryIO) -> int:
    """Return the size of an open regular file, in bytes."""
    return os.fstat(file.fileno()).st_size


def read_range(file: BinaryIO, start: int, num_bytes: int) -> bytes:
    """Read bytes of an open regular file from `start` on; fewer where it ends before."""
    num_bytes = max(0, min(num_bytes, size_of(file) - start))  # `read` takes the memory before there is anything
    file.seek(start if num_bytes else 0)
    return file.read(num_bytes)
