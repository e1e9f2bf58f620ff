"""Which file system serves a URI, and paths in it that other processes understand."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from animatediff.errors import UserError
from animatediff.storage.errors import public, reason
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


def is_local(uri: str) -> bool:
    """Whether `uri` is on the local file system."""
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def join(uri: str, *parts: str) -> str:
    """Return `uri/part/part`, for local paths and URIs alike."""
    return joined(uri, *parts)


def beside(uri: str, name: str) -> str:
    """Return the file `name` in the folder that `uri` lies in."""
    return joined(parent(uri), name)


def absolute(uri: str) -> str:
    """Return a local path in full, so that a process with another working directory opens the same file.

    Any other URI is returned as it is.
    """
    fs, path = filesystem(uri)
    return str(path) if isinstance(fs, LocalFileSystem) else uri


def absolute_if_there(uri: str) -> str:
    """Return a local path that exists in full, as `absolute` does; anything else, a hub id too, as it is."""
    try:
        return absolute(uri) if "://" not in uri and Path(uri).expanduser().exists() else uri
    except (OSError, RuntimeError):  # a name too long, a home of nobody: told where the file is needed
        return uri
