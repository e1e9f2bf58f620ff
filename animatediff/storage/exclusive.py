"""Files that one of several processes makes, on a disk or in an object store, and the storage's own clock."""

import errno
import os
import time
import uuid
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from animatediff import storage
from animatediff.storage.errors import unreachable

# What a store without conditional requests is given until all that wrote at once have written.
_SETTLE_S = 3.0


def create(uri: str, data: bytes) -> bool:
    """Write a file unless there is one: of several that try at once, one alone does it.

    Args:
        uri: the file.
        data: bytes that nobody else writes.

    Returns:
        Whether it is written.

    Raises:
        FileNotFoundError: somebody deletes its folder at the same time.
        UserError: the storage cannot be reached, is full or refuses access.
    """
    fs, path = storage.filesystem(uri)
    try:
        return _link(Path(path), data) if isinstance(fs, LocalFileSystem) else _put(fs, path, data)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise unreachable(uri, error) from error


def renew(uri: str, data: bytes) -> None:
    """Change a file's time, or in an object store its bytes.

    Raises:
        FileNotFoundError: it is gone from the disk.
        UserError: the storage cannot be reached or refuses access.
    """
    fs, path = storage.filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        storage.write_bytes(uri, data)
        return
    try:
        os.utime(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreachable(uri, error) from error


def clock(folder_uri: str) -> float:
    """Return the time that the storage would give to a file now, in seconds since 1970; infinite if it gives none.

    Raises:
        UserError: the storage cannot be reached, is full or refuses access.
    """
    name = f".{uuid.uuid4().hex}.tmp"
    uri = storage.join(folder_uri, name)
    storage.write_bytes(uri, b"")
    try:
        return storage.list_times(folder_uri).get(name, float("inf"))
    finally:
        storage.delete(uri)


def _link(path: Path, data: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        draft.write_bytes(data)
        os.link(draft, path)  # whole from the first moment, unlike a file that is opened to be written
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        return _open(path, data)  # a disk without hard links
    finally:
        draft.unlink(missing_ok=True)
    return True


def _open(path: Path, data: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _put(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    is_refused = _refuses(fs, path, data)
    if is_refused:
        # It is ours all the same where the answer to a first try was lost.
        return _content(fs, path) == data
    if is_refused is None:
        fs.pipe_file(path, data)
    elif _refuses(fs, path, data):  # so it looks at the condition
        return True
    time.sleep(_SETTLE_S)
    return _content(fs, path) == data


def _refuses(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool | None:
    """Whether the store refuses to write over a file; None if it cannot be asked."""
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return True
    except (NotImplementedError, TypeError):
        return None
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return None
        # Some stores do not say which condition has failed; others are asked by two at once.
        if error.errno == errno.EINVAL or "ConditionalRequestConflict" in str(error.__cause__):
            return True
        raise
    return False


def _content(fs: fsspec.AbstractFileSystem, path: str) -> bytes | None:
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None
