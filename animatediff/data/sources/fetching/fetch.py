"""The bytes of one video, from wherever a source says it lies."""

import os
import random
import time
import unicodedata
from collections.abc import Callable
from typing import Any, Literal

import aiohttp
import pyarrow as pa
from fsspec.asyn import AsyncFileSystem, sync

from animatediff import storage
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.http import get, too_large
from animatediff.data.sources.fetching.local import NotRegularError, local_path, open_regular, read_range, size_of
from animatediff.data.sources.fetching.parquet_cells import read_cell
from animatediff.data.sources.fetching.reach import is_chain, is_web
from animatediff.data.sources.uris import ParquetCell, TarMember, describe, parse_locator
from animatediff.errors import UserError
from animatediff.storage.errors import is_absence
from animatediff.uris import printable_uri

ATTEMPTS = 3
"""Reads of one video before the storage is said to have failed."""
_BACKOFF_S = 1.0
"""Wait before the second attempt, doubled before each further one, give or take half."""
_TOTAL_S = 600
"""For one video from a store, as `http` has it."""
_TRANSIENT_STATUS = (408, 425, 429)
_PERMANENT_ERRORS = ("NoCredentialsError", "PartialCredentialsError", "EndpointConnectionError")
_FORMS: tuple[Literal["NFC"], Literal["NFD"]] = ("NFC", "NFD")


def fetch(uri: str, *, max_bytes: int, trusted: bool = False, attempts: int = ATTEMPTS) -> bytes:
    """Return the bytes of one video.

    What may pass (server errors, throttling, timeouts, cut connections) is tried again.

    Args:
        uri: as `read_source` yields it: a file, a member of a tar, or a cell of a Parquet file.
        max_bytes: largest video that is read.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.
        attempts: times that it is tried.

    Raises:
        VideoError: stage `fetch`, without secrets in its detail. NOT_FOUND and FETCH_REFUSED (a web server's other
            4xx, a pipe or a device, an address that rows may not name) are this video's fault, and so are TOO_LARGE
            and, for a part of a damaged file, TRUNCATED. FETCH_ERROR is the storage's: unreachable, no credentials, or
            failed each time.
    """
    for attempt in range(1, attempts + 1):
        try:
            return _read(uri, max_bytes, trusted)
        except VideoError:
            raise
        except Exception as error:  # each storage has its own
            failure = _judge(uri, error)
            if attempt == attempts or not _is_transient(error, failure.reason):
                raise failure from error
        time.sleep(_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("the loop returns or raises")


def _read(uri: str, max_bytes: int, trusted: bool) -> bytes:
    part = parse_locator(uri)
    if is_chain(part.uri if part else uri):
        detail = f"{printable_uri(uri)} chains file systems, which read and keep files without bounds"
        raise VideoError("fetch", Reason.FETCH_REFUSED, detail)
    if isinstance(part, TarMember):
        return _read_member(part, max_bytes, trusted)
    if isinstance(part, ParquetCell):
        return _read_parquet(part, max_bytes)
    if is_web(uri):
        return get(uri, max_bytes=max_bytes, trusted=trusted)
    path = local_path(uri)
    return _read_remote(uri, max_bytes) if path is None else _read_local(path, uri, max_bytes)


def _read_local(path: str, uri: str, max_bytes: int) -> bytes:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        file = open_regular(_other_spelling(path, os.path.exists))
    with file:
        size = size_of(file)
        if size > max_bytes:
            raise too_large(uri, size, max_bytes)
        return _whole(read_range(file, 0, size), size)


def _read_remote(uri: str, max_bytes: int) -> bytes:
    fs, path = storage.filesystem(uri, may_wait=False)
    fs.invalidate_cache(path)  # a size that was listed long ago may be another file's
    try:
        info = fs.info(path)
    except FileNotFoundError:
        path = _other_spelling(path, fs.exists)
        info = fs.info(path)
    if info["type"] == "other":
        raise VideoError("fetch", Reason.FETCH_REFUSED, f"{printable_uri(uri)} is no regular file")
    size = int(info["size"])
    if size > max_bytes:
        raise too_large(uri, size, max_bytes)
    # With an end, object stores need no second look at the size.
    return _whole(_part(fs, path, 0, size), size) if size else b""


def _part(fs: Any, path: str, start: int, end: int) -> bytes:
    """Bytes of a file in a store, or the error of a store that trickles."""
    if isinstance(fs, AsyncFileSystem):
        return bytes(sync(fs.loop, fs._cat_file, path, start=start, end=end, timeout=_TOTAL_S))
    return bytes(fs.cat_file(path, start=start, end=end))


def _other_spelling(path: str, exists: Callable[[str], bool]) -> str:
    """Return the path of a file whose name has its accents composed otherwise: macOS parts them, tables mostly do not.

    Raises:
        FileNotFoundError: there is none either.
    """
    parts = path.split("/")
    # The folder may be spelled as it is there, and what the table says beneath it not.
    for first in [index for index, part in enumerate(parts) if not part.isascii()]:
        for form in _FORMS:
            other = "/".join([*parts[:first], *(unicodedata.normalize(form, part) for part in parts[first:])])
            if other != path and exists(other):
                return other
    raise FileNotFoundError(path)


def _read_member(part: TarMember, max_bytes: int, trusted: bool) -> bytes:
    if part.num_bytes > max_bytes:
        raise too_large(str(part), part.num_bytes, max_bytes)
    if not part.num_bytes:
        return b""
    if is_web(part.uri):
        return _whole(get(part.uri, max_bytes=part.num_bytes, start=part.offset, trusted=trusted), part.num_bytes)
    path = local_path(part.uri)
    if path is not None:
        with open_regular(path) as file:
            return _whole(read_range(file, part.offset, part.num_bytes), part.num_bytes)
    fs, path = storage.filesystem(part.uri, may_wait=False)
    return _whole(_part(fs, path, part.offset, part.offset + part.num_bytes), part.num_bytes)


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise EOFError(f"{len(data)} of {size} bytes came")
    return data


def _read_parquet(part: ParquetCell, max_bytes: int) -> bytes:
    try:
        data = read_cell(part)
    except IndexError as error:
        raise VideoError("fetch", Reason.NOT_FOUND, f"there is no row at {printable_uri(str(part))}") from error
    except pa.ArrowInvalid as error:
        detail = f"{printable_uri(part.uri)} is damaged: {describe(error)}"
        raise VideoError("fetch", Reason.TRUNCATED, detail) from error
    if data is None:
        raise VideoError("fetch", Reason.NOT_FOUND, f"there is no video, but a null, at {printable_uri(str(part))}")
    if len(data) > max_bytes:
        raise too_large(str(part), len(data), max_bytes)
    return data


def _judge(uri: str, error: Exception) -> VideoError:
    name, status = printable_uri(uri), getattr(error, "status", None)
    if is_absence(error):
        return VideoError("fetch", Reason.NOT_FOUND, f"there is nothing at {name}")
    if isinstance(error, NotRegularError):
        return VideoError("fetch", Reason.FETCH_REFUSED, f"{name} is no regular file")
    if isinstance(error, aiohttp.InvalidURL):
        return VideoError(
            "fetch", Reason.FETCH_REFUSED, f"{name} is, or is redirected to, no web address: {describe(error)}"
        )
    if status and 300 <= status < 500 and status not in _TRANSIENT_STATUS:
        return VideoError("fetch", Reason.FETCH_REFUSED, f"{name} is refused: {describe(error)}")
    return VideoError("fetch", Reason.FETCH_ERROR, f"cannot read {name}: {describe(error)}")


def _is_transient(error: Exception, reason: Reason) -> bool:
    """Whether asking again may help: not where credentials or a whole kind of storage are missing."""
    # botocore has asked an endpoint that does not answer five times by itself.
    is_settled = isinstance(error, PermissionError | UserError) or type(error).__name__ in _PERMANENT_ERRORS
    return reason is Reason.FETCH_ERROR and not is_settled
