"""Weights at any URI, as local files that can be memory-mapped."""

import errno
import hashlib
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from animatediff import storage
from animatediff.errors import UserError

# S3, GCS, Azure; web servers; fsspec's file systems in memory and elsewhere.
_VERSION_FIELDS = ("size", "ETag", "etag", "md5Hash", "generation", "LastModified", "Last-Modified", "mtime", "created")

_OF_A_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT}

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "animatediff"
"""Where copies of remote files are kept, one a version; nothing empties it."""


def local_copy(uri: str) -> Path:
    """A local path with the content of a file or folder at `uri`, fetched once per version.

    Raises:
        UserError: there is nothing at `uri`, or the storage cannot be reached.
    """
    fs, path = storage.filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        if not Path(path).exists():
            raise UserError(f"there is no file or folder {uri}")
        return Path(path)
    if not storage.exists(uri):
        raise UserError(f"there is nothing at {uri}")
    return _fetch(uri)


def parse_json(text: str | bytes, source: str) -> dict[str, Any]:
    """A JSON object out of a stranger's file.

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
            raise storage.unreachable(uri, error) from error
        where = f"cannot keep a copy of {uri} in {CACHE}: {error.strerror}"
        raise UserError(f"{where}; make room, or name another folder in XDG_CACHE_HOME") from error
    except Exception as error:  # every storage has its own
        raise storage.unreachable(uri, error) from error


def _fetched(uri: str) -> Path:
    fs, path = storage.filesystem(uri)
    key = hashlib.sha256(repr((uri, _versions(fs, path))).encode()).hexdigest()[:16]
    target = CACHE / key / Path(path).name
    if target.exists():
        return target
    partial = CACHE / f"{key}.{uuid.uuid4().hex}" / target.name
    partial.parent.mkdir(parents=True)
    try:
        fs.get(path, str(partial), recursive=fs.isdir(path))
        partial.parent.rename(target.parent)
    except OSError:
        if not target.exists():  # another process may have been faster
            raise
    finally:
        shutil.rmtree(partial.parent, ignore_errors=True)
    return target


def _versions(fs: AbstractFileSystem, path: str) -> list[object]:
    """What the storage says of the files' versions, so that a replaced file is fetched anew.

    A web server may give no more than the size; a file replaced by another of the same size goes unnoticed then.
    """
    fs.invalidate_cache()
    names = sorted(fs.find(path)) or [path]
    infos = ((name, fs.info(name)) for name in names)
    return [(name, [(field, str(info[field])) for field in _VERSION_FIELDS if field in info]) for name, info in infos]
