"""Atomic writes: a reader sees the whole new file or none of it.

On the local disk a draft is written beside the file and takes its place; object stores publish what is put when it is
complete.
"""

import os
import posixpath
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from animatediff.errors import UserError
from animatediff.storage.errors import printable_error, unreachable
from animatediff.storage.filesystems import absolute, filesystem, is_local

_DRAFT = re.compile(r"\.(.+\.)?[0-9a-f]{32}\.tmp")  # what `staged` and `write_file` name theirs


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
        raise unreachable(uri, error) from printable_error(error)


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
        raise unreachable(uri, error) from printable_error(error)


@contextmanager
def staged(uri: str) -> Iterator[str]:
    """Give a place to put together a file or folder that is at `uri` after the block, whole or not at all.

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
        raise unreachable(uri, error) from printable_error(error)
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
        raise unreachable(uri, error) from printable_error(error)


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
