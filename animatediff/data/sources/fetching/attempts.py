"""Reads of a storage, tried again where that may help; what fails for good is told as a video's or the storage's."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

import aiohttp

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.local import NotRegularError
from animatediff.data.sources.uris import describe
from animatediff.errors import UserError
from animatediff.storage.errors import is_absence
from animatediff.uris import printable_uri

ATTEMPTS = 3
"""Reads of one video before the storage is said to have failed."""
_BACKOFF_S = 1.0
"""Wait before the second attempt, doubled before each further one, give or take half."""
_TRANSIENT_STATUS = (408, 425, 429)
_PERMANENT_ERRORS = ("NoCredentialsError", "PartialCredentialsError", "EndpointConnectionError")

_T = TypeVar("_T")


def attempt(uri: str, read: Callable[[], _T], attempts: int = ATTEMPTS) -> _T:
    """Return what `read` gives, called up to `attempts` times.

    Args:
        uri: of what is read, for the error.
        read: raises whatever its storage raises.
        attempts: times that it is called where it fails by what may pass.

    Raises:
        VideoError: stage `fetch`; see `fetch.fetch`.
    """
    for number in range(1, attempts + 1):
        try:
            return read()
        except VideoError:
            raise
        except Exception as error:  # each storage has its own
            failure = _judge(uri, error)
            if number == attempts or not _is_transient(error, failure.reason):
                raise failure from error
        time.sleep(_BACKOFF_S * 2 ** (number - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("the loop returns or raises")


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
