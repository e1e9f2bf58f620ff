"""What a storage's errors mean: that there is no such file, or that it could not be asked; and both in one line."""

import errno
import ftplib
from typing import Any

from animatediff.errors import UserError, printed
from animatediff.storage.full import saying_full
from animatediff.uris import printable_text

_ABSENT = (404, 410)
_MOST_OF_A_URI = 1000  # characters that are shown


def is_absence(error: BaseException) -> bool:
    """Whether a storage says that there is no such file, rather than that it was not reached or refuses to tell.

    fsspec's web client raises FileNotFoundError for a host without a name, a closed port and whatever a server says.
    """
    status = _status(error)
    if status is not None:
        return status in _ABSENT
    if isinstance(error, ftplib.error_perm):
        return str(error).startswith("550")
    cause = error.__cause__
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return cause is None or isinstance(cause, LookupError) or is_absence(cause)
    # No file can be called so: too long, a link to itself, a NUL.
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.ENAMETOOLONG, errno.ELOOP) or (type(error) is ValueError and "null byte" in str(error))


def _status(error: BaseException) -> int | None:
    """Return what a server said, wherever its client keeps it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        found = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    else:
        found = [getattr(error, name, None) for name in ("status", "status_code", "code")]
        found.append(getattr(response, "status_code", None))
    return next((number for number in found if isinstance(number, int)), None)


def reason(error: BaseException) -> str:
    """Return the line in which a storage's error says what happened."""
    if isinstance(error, FileNotFoundError) and error.__cause__:  # which says no more than the name
        return reason(error.__cause__)
    if (status := getattr(error, "status", None)) and (message := getattr(error, "message", None)):
        return f"HTTP {status} {printable_text(str(message))}"
    # An OSError's own text names the temporary file.
    text = (error.strerror if isinstance(error, OSError) else None) or str(error).strip() or type(error).__name__
    first, *more = map(str.strip, text.strip().splitlines())
    return printable_text(f"{first} {more[0]}" if more and first.endswith(":") else first)


def unreachable(uri: str, error: BaseException) -> UserError:
    """Return the one line for whatever a storage raised."""
    what = f"cannot {'reach' if '://' in uri else 'use'} {printed(uri, most=_MOST_OF_A_URI)}"
    if (full := saying_full(error)) is not None:
        return UserError(f"{what}: {reason(full)} (make room there or raise its quota; the same command goes on)")
    remedy = "check the bucket's name, the endpoint and the credentials"
    return UserError(f"{what}: {reason(error)}" + (f" ({remedy})" if "://" in uri else ""))


def printable_error(error: Exception) -> Exception:
    """Return what an error is said to be caused by: itself, or its text where that holds the secrets of a URI.

    Python and Ray print the causes of errors into logs, with all that they say.
    """
    text = str(error)
    printable = printable_text(text)
    return error if printable == text else RuntimeError(f"{type(error).__name__}: {printable}")
