"""Files at any URI that fsspec opens: a local path, `s3://`, `gs://`, `http(s)://`.

Writes are atomic: a reader sees the whole new file or none of it.
"""

import errno
import math
import os
import posixpath
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from animatediff.errors import UserError
from animatediff.storage.errors import is_absence, public, reason, unreachable
from animatediff.uris import joined, parent, printable_uri, with_secrets


@cache
def _web_timeout() -> Any:
    import aiohttp  # which takes long, and few need it

    return aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


# Defaults wait 60 s per attempt, or five minutes for a whole file; a wrong endpoint should be told within seconds.
_PROTOCOL_OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "s3": lambda: {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 4}}},
    **dict.fromkeys(("http", "https"), lambda: {"client_kwargs": {"timeout": _web_timeout()}}),
}

_DRAFT = re.compile(r"\.(.+\.)?[0-9a-f]{32}\.tmp")  # what `staged` and `write_file` name theirs


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system that serves `uri`, and the path inside it.

    Raises:
        UserError: no file system is known for the protocol, or its package is not installed.
    """
    protocol = uri.split("://", 1)[0] if "://" in uri else "file"
    try:
        return fsspec.core.url_to_fs(with_secrets(uri), **_PROTOCOL_OPTIONS.get(protocol, dict)())
    except Exception as error:  # some connect at once, and each fails in its own way
        raise UserError(f"cannot open {printable_uri(uri)}: {reason(error)}") from public(error)


def join(uri: str, *parts: str) -> str:
    """`uri/part/part`, for local paths and URIs alike."""
    return joined(uri, *parts)


def beside(uri: str, name: str) -> str:
    """Return the file `name` in the folder that `uri` lies in."""
    return joined(parent(uri), name)


def is_local(uri: str) -> bool:
    """Whether `uri` is on the local file system."""
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def absolute(uri: str) -> str:
    """`uri` so that a process with another working directory opens the same file."""
    fs, path = filesystem(uri)
    return str(path) if isinstance(fs, LocalFileSystem) else uri


def absolute_if_there(uri: str) -> str:
    """`absolute` for a local path that exists; anything else, a hub id too, as it is."""
    try:
        return absolute(uri) if "://" not in uri and Path(uri).expanduser().exists() else uri
    except (OSError, RuntimeError):  # a name too long, a home of nobody: told where the file is needed
        return uri


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
        raise unreachable(uri, error) from public(error)


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
            raise FileNotFoundError(errno.ENOENT, "there is no such file", printable_uri(uri)) from public(error)
        raise unreachable(uri, error) from public(error)


def write_bytes(uri: str, data: bytes) -> None:
    """Write `data` so that the file is there whole or not at all.

    Local files go to a temporary name first; object stores publish a PUT only when it is complete.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    fs, path = filesystem(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            with _replacing(Path(path)) as temporary:
                temporary.write_bytes(data)
        else:
            fs.pipe_file(path, data)
    except Exception as error:
        raise unreachable(uri, error) from public(error)


@contextmanager
def write_file(uri: str) -> Iterator[Path]:
    """Give a local path to write a file at that need not fit in memory; after the block it is at `uri`, whole.

    If the block raises, `uri` stays as it was. The file has the usual permissions, whatever its writer set.

    Raises:
        UserError: the disk or the storage cannot be reached, is full or refuses access.
    """
    fs, path = filesystem(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            with _replacing(Path(path)) as temporary:
                yield temporary
        else:
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder, posixpath.basename(path))
                yield temporary
                _upload(fs, temporary, path, uri)
    except OSError as error:
        raise unreachable(uri, error) from public(error)


@contextmanager
def staged(uri: str) -> Iterator[str]:
    """Where to put together a file or folder that is at `uri` after the block, whole or not at all.

    Object stores cannot rename: there it is `uri` itself, and each file appears whole.

    Raises:
        UserError: the disk cannot be written to.
    """
    if not is_local(uri):
        yield uri
        return
    path = Path(absolute(uri))
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp") / path.name
    try:
        draft.parent.mkdir(parents=True)
        yield str(draft)
        draft.rename(path)
    except OSError as error:
        raise unreachable(uri, error) from public(error)
    except UserError as error:
        if str(draft) not in str(error):
            raise
        raise type(error)(str(error).replace(str(draft), uri)) from error  # the user has not heard of the draft
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors makes files that only their owner can read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _upload(fs: fsspec.AbstractFileSystem, local: Path, path: str, uri: str) -> None:
    try:
        fs.put_file(str(local), path)
    except Exception as error:
        raise unreachable(uri, error) from public(error)


def list_files(uri: str) -> list[str]:
    """Names (not URIs) of the files directly in a folder, sorted; an absent folder is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    names = (posixpath.basename(entry["name"].rstrip("/")) for entry in _entries(uri) if entry["type"] == "file")
    return sorted(name for name in names if name and not name.endswith(".tmp"))


def list_times(uri: str) -> dict[str, float]:
    """Names of the files and folders directly in a folder, each with the time of its last change.

    Returns:
        Seconds since 1970; infinite where the storage does not say. An absent folder is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    return {posixpath.basename(entry["name"].rstrip("/")): _changed(entry) for entry in _entries(uri)}


def list_sizes(uri: str) -> dict[str, int | None]:
    """Names of the files and folders directly in a folder, each with its size in bytes; None of a folder.

    An absent folder is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    entries = ((posixpath.basename(entry["name"].rstrip("/")), entry) for entry in _entries(uri))
    return {name: int(entry["size"]) if entry["type"] == "file" else None for name, entry in entries}


def list_names(uri: str) -> set[str]:
    """Names of the files and folders directly in a folder: less memory than `list_times`. An absent one is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    return {posixpath.basename(name.rstrip("/")) for name in _entries(uri, detail=False)}


def _changed(entry: dict[str, Any]) -> float:
    found = (entry.get(name) for name in ("mtime", "LastModified", "updated"))
    time: Any = next((value for value in found if value is not None), math.inf)
    if isinstance(time, str):  # Google's
        time = datetime.fromisoformat(time)
    return time.timestamp() if isinstance(time, datetime) else float(time)


def _entries(uri: str, *, detail: bool = True) -> list[Any]:
    fs, path = filesystem(uri)
    try:
        # Object stores cache listings; another worker may have written since.
        fs.invalidate_cache(path)
        return list(fs.ls(path, detail=detail))
    except Exception as error:
        if is_absence(error):
            return []
        raise unreachable(uri, error) from public(error)


def find_files(uri: str) -> list[str]:
    """Paths, relative to the folder `uri`, of all files below it, sorted; an absent folder is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    fs, path = filesystem(uri)
    try:
        found = fs.find(path)
    except Exception as error:
        if is_absence(error):
            return []
        raise unreachable(uri, error) from public(error)
    return sorted(posixpath.relpath(name, path) for name in found)


def delete(uri: str) -> None:
    """Delete a file; it is no error when it is gone already.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    fs, path = filesystem(uri)
    try:
        fs.rm_file(path)
    except Exception as error:
        if is_absence(error):
            return
        raise unreachable(uri, error) from public(error)


def delete_drafts(uri: str, *, older_than_s: float = 0.0) -> None:
    """Delete what writers that were killed have left below a folder of the local disk; elsewhere they leave nothing.

    Args:
        uri: the folder.
        older_than_s: leave what was changed within so many seconds; a writer may still be at it.
    """
    if not is_local(uri):
        return
    now = time.time()
    for draft in filter(lambda path: _DRAFT.fullmatch(path.name), list(Path(absolute(uri)).rglob(".*.tmp"))):
        with suppress(FileNotFoundError):  # its writer was alive, and is done
            changed = max(path.stat().st_mtime for path in (draft, *draft.rglob("*")))
            if now - changed < older_than_s:
                continue
            if draft.is_dir():
                shutil.rmtree(draft)
            else:
                draft.unlink()


def delete_many(uris: Sequence[str]) -> None:
    """Delete files; those that are gone already are no error. Object stores take a thousand in one request.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    if not uris:
        return
    fs, _ = filesystem(uris[0])
    if isinstance(fs, LocalFileSystem):
        for uri in uris:
            delete(uri)
        return
    try:
        fs.rm([filesystem(uri)[1] for uri in uris])
    except Exception as error:
        if is_absence(error):
            return
        raise unreachable(uris[0], error) from public(error)
