"""Whether a storage has no room left, however its client says so."""

import errno
from collections.abc import Iterator
from typing import Any

_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STATUS = 507  # HTTP's Insufficient Storage
# Libraries that write by themselves keep no number of the system's.
_WORDS = (
    "no space left",
    "file too large",
    "disk is full",
    "quota exceeded",
    "insufficient storage",
    "insufficientstorage",
)
# Object stores' own codes: `QuotaExceeded`, `XMinioStorageFull`, `InsufficientCapacity`, `StorageQuotaExceeded`.
_CODES = ("quotaexceeded", "storagefull", "insufficientcapacity", "insufficientstorage", "diskfull")


def is_full(error: BaseException) -> bool:
    """Whether a disk or an object store refuses to write because it is full, or its user's share of it is."""
    return saying_full(error) is not None


def saying_full(error: BaseException) -> BaseException | None:
    """Return the one of an error and its causes that says that there is no room; None if none does."""
    return next((each for each in _chain(error) if _says_so(each)), None)


def _says_so(error: BaseException) -> bool:
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        code = str(response.get("Error", {}).get("Code", "")).lower()
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == _STATUS or any(word in code for word in _CODES):
            return True
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    if _STATUS in (getattr(error, name, None) for name in ("status", "status_code", "code")):
        return True
    return any(word in str(error).lower() for word in _WORDS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
