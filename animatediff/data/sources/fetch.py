"""The bytes of one video, from wherever a source says it lies."""

import random
import time
import unicodedata
from typing import Any, Literal

import pyarrow as pa

from animatediff import storage
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.http import get, too_large
from animatediff.data.sources.parquet_files import read_cell
from animatediff.data.sources.uris import ParquetCell, TarMember, describe, parse_locator
from animatediff.errors import UserError
from animatediff.storage_errors import is_absence
from animatediff.uris import printable_uri

ATTEMPTS = 3
"""Reads of one video before the storage is said to have failed."""
_BACKOFF_S = 1.0
"""Wait before the second attempt, doubled before each further one, give or take half."""
_PASSING_STATUS = (408, 425, 429)
_SETTLED = ("NoCredentialsError", "PartialCredentialsError", "EndpointConnectionError")
_FORMS: tuple[Literal["NFC"], Literal["NFD"]] = ("NFC", "NFD")
_WEB = ("http://", "https://")


def fetch(uri: str, *, max_bytes: int) -> bytes:
    """The bytes of one video.

    What may pass (server errors, throttling, timeouts, cut connections) is tried three times.

    Args:
        uri: as `read_source` yields it: a file, a member of a tar, or a cell of a Parquet file.
        max_bytes: largest video that is read.

    Raises:
        VideoError: stage `fetch`, without secrets in its detail. NOT_FOUND and FETCH_REFUSED (a web server's other
            4xx) are this video's fault, and so are TOO_LARGE and, for a part of a damaged file, TRUNCATED.
            FETCH_ERROR is the storage's: unreachable, no credentials, or failed three times.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _read(uri, max_bytes)
        except VideoError:
            raise
        except Exception as error:  # each storage has its own
            failure = _judge(uri, error)
            if attempt == ATTEMPTS or not _may_pass(error, failure.reason):
                raise failure from error
        time.sleep(_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("the loop returns or raises")


def _read(uri: str, max_bytes: int) -> bytes:
    part = parse_locator(uri)
    if isinstance(part, TarMember):
        return _read_member(part, max_bytes)
    if isinstance(part, ParquetCell):
        return _read_parquet(part, max_bytes)
    return _read_file(uri, max_bytes)


def _read_file(uri: str, max_bytes: int) -> bytes:
    fs, path = storage.filesystem(uri)
    if uri.startswith(_WEB):
        return get(fs, path, max_bytes=max_bytes)
    fs.invalidate_cache(path)  # a size that was listed long ago may be another file's
    try:
        info = fs.info(path)
    except FileNotFoundError:
        path = _other_spelling(fs, path)
        info = fs.info(path)
    if info["type"] == "other":  # reading a pipe never ends
        raise VideoError("fetch", Reason.FETCH_REFUSED, f"{printable_uri(uri)} is no regular file")
    size = int(info["size"])
    if size > max_bytes:
        raise too_large(uri, size, max_bytes)
    # With an end, object stores need no second look at the size.
    return _whole(fs.cat_file(path, start=0, end=size), size) if size else b""


def _other_spelling(fs: Any, path: str) -> str:
    """The path of a file whose name has its accents composed otherwise: macOS parts them, tables mostly do not.

    Raises:
        FileNotFoundError: there is none either.
    """
    parts = path.split("/")
    # The folder may be spelled as it is there, and what the table says beneath it not.
    for first in [index for index, part in enumerate(parts) if not part.isascii()]:
        for form in _FORMS:
            other = "/".join([*parts[:first], *(unicodedata.normalize(form, part) for part in parts[first:])])
            if other != path and fs.exists(other):
                return other
    raise FileNotFoundError(path)


def _read_member(part: TarMember, max_bytes: int) -> bytes:
    if part.num_bytes > max_bytes:
        raise too_large(str(part), part.num_bytes, max_bytes)
    if not part.num_bytes:
        return b""
    fs, path = storage.filesystem(part.uri)
    if part.uri.startswith(_WEB):
        data = get(fs, path, max_bytes=part.num_bytes, start=part.offset)
    else:
        data = fs.cat_file(path, start=part.offset, end=part.offset + part.num_bytes)
    return _whole(data, part.num_bytes)


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
    if status and 300 <= status < 500 and status not in _PASSING_STATUS:
        return VideoError("fetch", Reason.FETCH_REFUSED, f"{name} is refused: {describe(error)}")
    return VideoError("fetch", Reason.FETCH_ERROR, f"cannot read {name}: {describe(error)}")


def _may_pass(error: Exception, reason: Reason) -> bool:
    """Whether asking again may help: not where credentials or a whole kind of storage are missing."""
    # botocore has asked an endpoint that does not answer five times by itself.
    is_settled = isinstance(error, PermissionError | UserError) or type(error).__name__ in _SETTLED
    return reason is Reason.FETCH_ERROR and not is_settled
