"""Which file system serves a URI, and paths in it that other processes understand."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from animatediff.errors import UserError
from animatediff.storage.errors import printable_error, reason
from animatediff.uris import joined, parent, printable_uri, with_secrets


@cache
def _web_timeout() -> Any:
    import aiohttp  # which takes long, and few need it

    return aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


_FEW_RETRIES: dict[str, Any] = {"max_attempts": 4}
# With at most 20 s between two attempts, as the standard mode has it; a refusing port is given up after 46 s.
_MANY_RETRIES: dict[str, Any] = {"mode": "standard", "max_attempts": 10}
_process = SimpleNamespace(waits_out_outages=False)


def use_patient_retries() -> None:
    """Let this process try an S3 store that does not answer for one to three minutes, not for some seconds.

    For workers: the job's driver has reached it before. Where their machine is cut off from the network, Ray counts it
    as dead after a while, and does their work elsewhere; an error in between would be taken for the work's own.
    """
    _process.waits_out_outages = True


def _protocol_options(protocol: str, *, waits: bool) -> dict[str, Any]:
    # Defaults wait 60 s per attempt, or five minutes for a whole file; a wrong endpoint should be told within seconds.
    if protocol == "s3":
        retries = _MANY_RETRIES if waits else _FEW_RETRIES
        return {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": dict(retries)}}
    return {"client_kwargs": {"timeout": _web_timeout()}} if protocol in ("http", "https") else {}


def filesystem(uri: str, *, may_wait: bool = True) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system that serves `uri`, and the path inside it.

    Args:
        uri: a local path, or a URI.
        may_wait: False for who waits out outages in a way of their own, whatever `use_patient_retries` says.

    Raises:
        UserError: no file system is known for the protocol, or its package is not installed.
    """
    protocol = uri.split("://", 1)[0] if "://" in uri else "file"
    try:
        return fsspec.core.url_to_fs(
            with_secrets(uri), **_protocol_options(protocol, waits=may_wait and _process.waits_out_outages)
        )
    except Exception as error:  # some connect at once, and each fails in its own way
        raise UserError(f"cannot open {printable_uri(uri)}: {reason(error)}") from printable_error(error)


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
