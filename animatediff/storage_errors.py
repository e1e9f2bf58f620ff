"""What a storage's errors mean: that there is no such file, or that it could not be asked; and both in one line."""

import socket
from typing import Any

from animatediff.errors import UserError
from animatediff.uris import printable_text, printable_uri

_ABSENT = (404, 410)
_CLIENTS = {"aiohttp", "botocore", "httpx", "huggingface_hub", "requests", "urllib3"}
_LOST = (ConnectionError, TimeoutError, PermissionError, socket.gaierror)


def is_absence(error: BaseException) -> bool:
    """Whether a storage says that there is no such file, rather than that it was not reached or refuses to tell.

    fsspec's web client raises FileNotFoundError for a host without a name, a closed port and whatever a server says.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return _status(error) in _ABSENT
    cause = error.__cause__
    if cause is None:
        return True
    status = _status(cause)
    if status is not None:
        return status in _ABSENT
    return not isinstance(cause, _LOST) and type(cause).__module__.partition(".")[0] not in _CLIENTS


def _status(error: BaseException) -> int | None:
    """What a server said, wherever its client keeps it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        found = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    else:
        found = [getattr(error, name, None) for name in ("status", "status_code", "code")]
        found.append(getattr(response, "status_code", None))
    return next((number for number in found if isinstance(number, int)), None)


def unreachable(uri: str, error: Exception) -> UserError:
    """The one line for whatever a storage raised."""
    said = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    # An OSError's own text names the temporary file.
    text = (said.strerror if isinstance(said, OSError) else None) or str(said).strip() or type(said).__name__
    reason = printable_text(text.splitlines()[0])
    return UserError(
        f"cannot reach {printable_uri(uri)}: {reason} (check the bucket's name, the endpoint and the credentials)"
        if "://" in uri
        else f"cannot use {uri}: {reason}"
    )


def public(error: Exception) -> Exception:
    """What an error is said to be caused by: itself, or its text where that holds the secrets of a URI.

    Python and Ray print the causes of errors into logs, with all that they say.
    """
    text = str(error)
    printable = printable_text(text)
    return error if printable == text else RuntimeError(f"{type(error).__name__}: {printable}")
