"""What a URI says without being opened: whether it is relative, and its text without passwords and signatures."""

import re
from pathlib import Path
from urllib.parse import unquote

_SECRET_PARAMETER = re.compile(
    r"x-(amz|goog|ms)-.*|.*(token|secret|password|passwd|credential|signature|session).*|sig|sid|auth|authorization|bearer"
    r"|(.*[-_])?(api|access)?[-_]?key|pass|pwd|pw|jwt|hmac|hdnts|hdnea|awsaccesskeyid|googleaccessid|key-pair-id|policy"
    r"|expires",
    re.IGNORECASE,
)
_URI_IN_TEXT = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
# Clients tell a request without its host: "Max retries exceeded with url: /a.mp4?token=...".
_PARAMETER_IN_TEXT = re.compile(r"(?<=[?&;#])(?P<name>[\w%.-]+)=(?P<value>[^\s&;#'\"<>)]+)")


def is_secret(parameter: str) -> bool:
    """Whether a query's parameter is called like a password or a part of a signature, however it is escaped."""
    return _SECRET_PARAMETER.fullmatch(unquote(parameter)) is not None


def printable_uri(uri: str) -> str:
    """`uri` without user, password and signed parameters, for messages and tables; each link of a chain by itself."""
    return "::".join(_printable_link(link) for link in uri.split("::")) if "://" in uri else uri


def _printable_link(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    rest = _without_user(rest)
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    path, question_mark, tail = rest[len(authority) :].partition("?")
    query, hash_sign, fragment = tail.partition("#") if question_mark else ("", *path.partition("#")[1:])
    path = path if question_mark else path.partition("#")[0]
    # Servlets' `/a.mp4;jsessionid=...`, and single-page applications' `#token=...`.
    path, query, fragment = _public(path, ";"), _public(query, "&"), _public(fragment, "&")
    return f"{scheme}://{authority}{path}{'?' if query else ''}{query}{hash_sign if fragment else ''}{fragment}"


def _public(text: str, separator: str) -> str:
    """The parts that are no secrets."""
    kept = (part for part in text.split(separator) if "=" not in part or not is_secret(part.partition("=")[0]))
    return separator.join(kept)


def _without_user(rest: str) -> str:
    """What follows the scheme, from the host on."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return rest[len(authority.rpartition("@")[0]) + 1 :]
    # A password that is not escaped may hold what ends the authority: `me:p/w@host`. A port has digits alone.
    _, colon, port = authority.rpartition(":")
    if colon and port and not port.isdigit() and not authority.endswith("]") and "@" in rest:
        return rest.rpartition("@")[2]
    return rest


def printable_text(text: str) -> str:
    """`text` with every URI in it made printable: libraries repeat the address in their errors."""
    if "://" in text:
        text = _URI_IN_TEXT.sub(lambda match: printable_uri(match[0]), text)
    return _PARAMETER_IN_TEXT.sub(lambda match: f"{match['name']}=..." if is_secret(match["name"]) else match[0], text)


def is_relative(uri: str) -> bool:
    """Whether `uri` is a local path, bare or after `file:`, whose meaning depends on the working directory."""
    path = re.sub(r"^(file|local):(//)?", "", uri)
    try:
        return "://" not in path and not Path(path).expanduser().is_absolute()
    except RuntimeError:  # the home of nobody
        return True
