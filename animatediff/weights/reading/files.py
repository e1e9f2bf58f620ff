"""Weights at any URI, as local files that can be memory-mapped."""

import errno
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from animatediff import storage
from animatediff.errors import UserError
from animatediff.storage.errors import printable_error, unreachable
from animatediff.uris import printable_uri, with_secrets

# S3, GCS, Azure; web servers; fsspec's file systems in memory and elsewhere.
VERSION_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "mtime",
    "created",
)
"""What storages say of a file's version beside its size, in what fsspec tells of it; web servers may say none."""

_OF_A_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT}

_MAX_JSON_BYTES = 1 << 20  # a config has some kilobytes

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "animatediff"
"""Where copies of remote files are kept, one a version, as long as there is room for new ones."""

# A catalog may go through terabytes of checkpoints. A tenth of the disk is left to others, and what was asked for
# within the hour may not be open yet.
_FREE_SHARE, _RECENT_S = 0.1, 3600


def local_copy(uri: str) -> Path:
    """Return a local path with the content of a file or folder at `uri`, fetched once per version.

    Raises:
        UserError: there is nothing at `uri`, or the storage cannot be reached.
    """
    fs, path = storage.filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        if not Path(path).exists():
            raise UserError(f"there is no file or folder {uri}")
        if not Path(path).is_dir():
            check_regular(Path(path), uri)
        return Path(path)
    if not storage.exists(uri):
        raise UserError(f"there is nothing at {uri}")
    return _fetch(uri)


def check_regular(path: Path, name: str) -> None:
    """Refuse what is no plain file: a pipe would be waited for, and a device read without end.

    Args:
        path: it is there.
        name: what it is called in messages.

    Raises:
        UserError: it is a pipe, a socket or a device.
    """
    if not path.is_file():
        raise UserError(f"{name} is no regular file (a pipe, a socket or a device): copy the content into one")


def read_text(path: Path, name: str, *, max_bytes: int = _MAX_JSON_BYTES) -> bytes:
    """Read a small file of a stranger's.

    Args:
        path: a local file.
        name: what it is called in messages.
        max_bytes: it is refused if it has more.

    Raises:
        UserError: it is missing, too large, or no regular file, or cannot be read.
    """
    if not path.exists():
        raise UserError(f"{name} cannot be read: there is no such file")
    check_regular(path, name)
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error
    if len(content) > max_bytes:
        raise UserError(f"{name} has more than {max_bytes:,} bytes: it is not read")
    return content


def read_json(path: Path, name: str, *, max_bytes: int = _MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a small JSON object of a stranger's; arguments and errors are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path, name, max_bytes=max_bytes), name)


def parse_json(text: str | bytes, source: str) -> dict[str, Any]:
    """Return a JSON object out of a stranger's file.

    Raises:
        UserError: it is none, or nested without end; the line begins with `source`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON: {' '.join(str(error).split())[:100]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{source} holds a {type(content).__name__}, a JSON object is needed")
    return content


def _fetch(uri: str) -> Path:
    try:
        return _fetched(uri)
    except UserError:
        raise
    except OSError as error:
        if error.errno not in _OF_A_DISK:
            raise unreachable(uri, error) from printable_error(error)
        where = f"cannot keep a copy of {uri} in {CACHE}: {error.strerror}"
        raise UserError(f"{where}; make room, or name another folder in XDG_CACHE_HOME") from error
    except Exception as error:  # every storage has its own
        raise unreachable(uri, error) from printable_error(error)


def _fetched(uri: str) -> Path:
    fs, path = storage.filesystem(uri)
    infos = _infos(fs, path)
    key = hashlib.sha256(repr((with_secrets(uri), _versions(infos))).encode()).hexdigest()[:16]
    target = CACHE / key / Path(printable_uri(f"x://host/{path}")).name  # others may list the folder
    # It is used, which another process that makes room is to see before it is found here. Another user's cannot be
    # marked, nor does that user's process delete it while it is young.
    with suppress(FileNotFoundError, PermissionError):
        os.utime(target.parent)
    if target.exists():
        return target
    _make_room(sum(int(info.get("size") or 0) for _, info in infos))
    partial = _draft() / target.name
    partial.parent.mkdir(parents=True)
    try:
        if fs.isdir(path):
            fs.get(path, str(partial), recursive=True)
        else:  # not `get`, which takes the `?` of a query for a pattern, and makes a folder
            fs.get_file(path, str(partial))
        os.utime(partial.parent)  # it may have taken long, and is not to be old when it is there
        partial.parent.rename(target.parent)
    except OSError:
        if not target.exists():  # another process may have been faster
            raise
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)
    return target


def _draft() -> Path:
    """Return a folder beside the copies that is none of them, until it is renamed."""
    return CACHE / f".{uuid.uuid4().hex}.tmp"


def _make_room(num_bytes: int) -> None:
    """Delete the copies that were asked for longest ago until the disk has room. An open one stays readable.

    Drafts that nobody has written to for as long are deleted, too: their processes were killed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    usage = shutil.disk_usage(CACHE)
    missing = num_bytes + usage.total * _FREE_SHARE - usage.free
    for used, folder in sorted((_time(folder), folder) for folder in CACHE.iterdir()):
        if missing <= 0 or time.time() - used < _RECENT_S:
            return
        missing -= _delete(folder)


def _delete(folder: Path) -> int:
    """Delete a cached copy and return the bytes freed; none if it is in use, recent, or another user's."""
    gone = _draft()
    try:
        if time.time() - _time(folder) < _RECENT_S:
            return 0
        folder.rename(gone)  # what is half deleted must not be found
        num_bytes = sum(file.stat().st_size for file in gone.rglob("*") if file.is_file())
    except (FileNotFoundError, PermissionError):
        return 0
    shutil.rmtree(gone, ignore_errors=True)
    return num_bytes


def _time(folder: Path) -> float:
    """When a copy was asked for last, or a draft written to; infinite where another process is changing it."""
    try:
        written = folder.rglob("*") if folder.name.startswith(".") else ()
        return max(path.stat().st_mtime for path in (folder, *written))
    except FileNotFoundError:
        return math.inf


def _infos(fs: AbstractFileSystem, path: str) -> list[tuple[str, dict[str, Any]]]:
    fs.invalidate_cache()
    names = sorted(fs.find(path)) or [path]
    return [(name, fs.info(name)) for name in names]


def _versions(infos: list[tuple[str, dict[str, Any]]]) -> list[object]:
    """Return what the storage says of the files' versions, so that a replaced file is fetched anew.

    A web server may give no more than the size; a file replaced by another of the same size goes unnoticed then.
    """
    fields = ("size", *VERSION_FIELDS)
    return [(name, [(field, str(info[field])) for field in fields if field in info]) for name, info in infos]
