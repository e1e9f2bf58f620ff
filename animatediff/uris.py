"""What a URI says without being opened: whether it is relative, and its text without passwords and signatures."""

import re
from pathlib import Path

_SECRET_PARAMETER = re.compile(
    r"x-(amz|goog|ms)-.*|.*(token|secret|password|credential|signature).*|sig|auth|authorization|(.*[-_])?(api|access)?[-_]?key"
    r"|awsaccesskeyid|googleaccessid|key-pair-id|policy|expires",
    re.IGNORECASE,
)
_URI_IN_TEXT = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")


def is_secret(parameter: str) -> bool:
    """Whether a query's parameter is called like a password or a part of a signature."""
    return _SECRET_PARAMETER.fullmatch(parameter) is not None


def printable_uri(uri: str) -> str:
    """`uri` without user, password and signed query parameters, for messages and tables."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path, question_mark, tail = rest[len(authority) :].partition("?")
    query, hash_sign, fragment = tail.partition("#")
    kept = [part for part in query.split("&") if not is_secret(part.partition("=")[0])]
    query = "&".join(kept)
    public = authority.rpartition("@")[2]
    return f"{scheme}://{public}{path}{question_mark if query else ''}{query}{hash_sign}{fragment}"


def printable_text(text: str) -> str:
    """`text` with every URI in it made printable: libraries repeat the address in their errors."""
    return _URI_IN_TEXT.sub(lambda match: printable_uri(match[0]), text) if "://" in text else text


def is_relative(uri: str) -> bool:
    """Whether `uri` is a local path, bare or after `file:`, whose meaning depends on the working directory."""
    path = re.sub(r"^(file|local):(//)?", "", uri)
    try:
        return "://" not in path and not Path(path).expanduser().is_absolute()
    except RuntimeError:  # the home of nobody
        return True
