"""URIs: what they say without being opened, and what keeps their passwords and signatures out of everything published.

Every config's field that is a URI is a `Uri`. One with a secret in it is text without it, whoever logs, joins, dumps or
writes it; only what opens it asks for the rest by `with_secrets`. So a field that nobody thought of publishes nothing.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote, unquote

from pydantic import ValidatorFunctionWrapHandler, WrapValidator

_SECRET_PARAMETER = re.compile(
    r"x-(amz|goog|ms|oss|cos)-.*|.*(token|secret|password|passwd|passphrase|passcode|credential|signature|session).*"
    r"|.*access[-_]?key.*|sig|sign|q-sign.*|sid|.*sessid|sas|auth|oauth.*|authorization|bearer|creds?|cookie|otp|ticket"
    r"|(.*[-_])?(api|access)?[-_]?key|pass|pwd|pswd|psw|pw|jwt|hmac|hdnts|hdntl|hdnea|__gda__|googleaccessid"
    r"|key-pair-id|policy|expires",
    re.IGNORECASE,
)
# A path has names with a sign of their own: `key=1/` is a partition.
_SECRET_FOLDER = re.compile(r".*(token|secret|password|signature).*|jwt|hmac|hdnts|hdntl|hdnea", re.IGNORECASE)
_URI_IN_TEXT = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
# Clients tell a request without its host: "Max retries exceeded with url: /a.mp4?token=...".
_PARAMETER_IN_TEXT = re.compile(r"(?<=[?&;#])(?P<name>[\w%.-]+)=(?P<value>[^\s&;#'\"<>)]+)")
# What stands before the `@` there is a container or a repository.
_NAME_BEFORE_HOST = re.compile(r"(abfss?|wasbs?)://[^:]*@|github://.*")
_LINKS = re.compile(r"::(?=[A-Za-z][\w+.-]*(?:://|::|$))")  # of a chain; addresses and passwords may have colons, too
_SIGNS = re.compile("[@=?#]")  # without them there is nothing to leave out
_BETWEEN_PIECES = re.compile(r"[/?#:@]+")
_MIN_PIECE = 6  # characters from on a part of a secret is looked for in texts: shorter ones are in many words
_MAX_PIECES = 1000


class SecretUri(str):
    """A URI's printable text, which is compared, kept and sent to other processes as the whole URI that it stands for.

    What is cut out of it or put together from it is plain printable text.
    """

    whole: str
    """With its secrets."""

    def __new__(cls, whole: str) -> "SecretUri":
        """Keep `whole` apart from the text."""
        uri = super().__new__(cls, printable_uri(whole))
        uri.whole = whole
        _remember(whole, str.__str__(uri))
        return uri

    def __str__(self) -> str:  # a copy would have lost the rest, as command lines make of their defaults
        return self

    def __format__(self, form: str) -> str:
        return format(str.__str__(self), form)

    def __eq__(self, other: object) -> bool:
        return self.whole == (other.whole if isinstance(other, SecretUri) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.whole)

    def __reduce__(self) -> tuple[Any, ...]:
        return SecretUri, (self.whole,)


def hide_secrets(uri: str) -> str:
    """Return `uri` as it may be passed around: itself where it holds no secret."""
    return SecretUri(uri) if not isinstance(uri, SecretUri) and printable_uri(uri) != uri else uri


def with_secrets(uri: str) -> str:
    """Return the URI to open; nothing else may be done with it."""
    return uri.whole if isinstance(uri, SecretUri) else uri


def _hidden(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return value if isinstance(value, SecretUri) else hide_secrets(validate(value))


Uri = Annotated[str, WrapValidator(_hidden)]
"""Of every field that names a place: a local path, a URI, a hub id."""


def is_secret(parameter: str) -> bool:
    """Whether a query's parameter is called like a password or a part of a signature, however it is escaped."""
    return _SECRET_PARAMETER.fullmatch(unquote(parameter)) is not None


def printable_uri(uri: str) -> str:
    """`uri` without user, password and signed parameters, for messages and tables; each link of a chain by itself."""
    if isinstance(uri, SecretUri):
        return str.__str__(uri)
    if "://" not in uri or not _SIGNS.search(uri):
        return uri
    return "::".join(map(_printable_link, _LINKS.split(uri)))


def printable_place(uri: str) -> str:
    """`printable_uri` without what stands before the host, secret or not: as ids of videos have always had it."""
    if "://" not in uri:
        return uri
    parts = _split(printable_uri(uri))
    return "".join(parts._replace(user=""))


def printable_values(value: Any) -> Any:
    """Plain values with every text in them as `printable_uri` gives it; older versions kept some whole."""
    if isinstance(value, dict):
        return {name: printable_values(each) for name, each in value.items()}
    if isinstance(value, list):
        return [printable_values(each) for each in value]
    return printable_uri(value) if isinstance(value, str) else value


class _Parts(NamedTuple):
    """A URI's parts with the signs before them."""

    scheme: str
    user: str
    host: str
    path: str
    query: str
    fragment: str


def _split(uri: str) -> _Parts:
    scheme, separator, rest = uri.partition("://")
    user, rest = _split_user(rest)
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    path, question_mark, tail = rest[len(host) :].partition("?")
    query, hash_sign, fragment = tail.partition("#") if question_mark else ("", *path.partition("#")[1:])
    path = path if question_mark else path.partition("#")[0]
    return _Parts(scheme + separator, user, host, path, question_mark + query, hash_sign + fragment)


def _split_user(rest: str) -> tuple[str, str]:
    """User and password with the sign after them, and what follows from the host on."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    num = len(authority.rpartition("@")[0]) + 1 if "@" in authority else 0
    # A password that is not escaped may hold what ends the authority: `me:p/w@host`. A port has digits alone.
    _, colon, port = authority.rpartition(":")
    if not num and colon and port and not port.isdigit() and not authority.endswith("]") and "@" in rest:
        num = len(rest.rpartition("@")[0]) + 1
    return rest[:num], rest[num:]


def _printable_link(uri: str) -> str:
    if "://" not in uri:
        return uri
    parts = _split(uri)
    is_name = _NAME_BEFORE_HOST.fullmatch(parts.scheme + parts.user) is not None
    # Servlets' `/a.mp4;jsessionid=...`, and single-page applications' `#token=...`.
    path = _public(parts.path, ";")
    if parts.scheme.startswith("http"):
        path = "/".join("..." if _is_secret_folder(folder) else folder for folder in path.split("/"))
    query, fragment = (sign + text if (text := _public(rest, "&")) else "" for sign, rest in _signs(parts))
    return f"{parts.scheme}{parts.user if is_name else ''}{parts.host}{path}{query}{fragment}"


def _signs(parts: _Parts) -> list[tuple[str, str]]:
    return [(part[:1], part[1:]) for part in (parts.query, parts.fragment)]


def _is_secret_folder(name: str) -> bool:
    parameter, sign, _ = name.partition("=")
    return bool(sign) and _SECRET_FOLDER.fullmatch(unquote(parameter)) is not None


def _public(text: str, separator: str) -> str:
    """Return the parts that are no secrets."""
    kept = (part for part in text.split(separator) if "=" not in part or not is_secret(part.partition("=")[0]))
    return separator.join(map(_public_value, kept))


def _public_value(part: str) -> str:
    """Return a parameter that may have a URI for its value, such as a proxy's."""
    name, _, value = part.partition("=")
    inner = unquote(value)
    public = printable_uri(inner)
    return part if public == inner else f"{name}={public if '://' in value else quote(public, safe='')}"


def joined(uri: str, *names: str) -> str:
    """Return the URI of what lies below `uri`; a web server's query stays behind the path."""
    whole = with_secrets(uri)
    if printable_uri(whole) == whole:
        return posixpath.join(uri, *names)
    first, *others = _LINKS.split(whole)
    parts = _split(first)
    if parts.scheme.startswith("http"):
        first = "".join(parts._replace(path=posixpath.join(parts.path or "/", *names)))
    else:
        first = posixpath.join(first, *names)
    whole = "::".join([first, *others])
    return hide_secrets(whole) if isinstance(uri, SecretUri) else whole


def parent(uri: str) -> str:
    """Return the URI of the folder that `uri` lies in, which is opened with the same secrets."""
    if not isinstance(uri, SecretUri):
        return posixpath.dirname(uri)
    first, *others = _LINKS.split(uri.whole)
    parts = _split(first)
    folder = "".join(parts._replace(path=posixpath.dirname(parts.path)))
    return hide_secrets("::".join([folder, *others]))


# Libraries tell pieces of a URI: a password as a port that is no number, a parameter's value.
_pieces: dict[str, None] = {}


def _remember(whole: str, printable: str) -> None:
    for piece in (piece for link in _LINKS.split(whole) for piece in _hidden_pieces(_split(link))):
        if len(piece) >= _MIN_PIECE and piece not in printable:
            _pieces.update(dict.fromkeys((piece, unquote(piece), quote(piece, safe=""))))
    while len(_pieces) > _MAX_PIECES:
        _pieces.pop(next(iter(_pieces)), None)


def _hidden_pieces(parts: _Parts) -> Iterator[str]:
    """Yield the password, or the user without one, in the pieces that a client may take it for.

    And parameters' values.
    """
    user, _, password = parts.user.removesuffix("@").partition(":")
    yield from _BETWEEN_PIECES.split(password or user)
    folders = re.split("[/;]", parts.path)
    for parameter in (*folders, *re.split("[?#&]", parts.query + parts.fragment)):
        name, _, value = parameter.partition("=")
        if is_secret(name):
            yield value
        elif "://" in (inner := unquote(value)):
            yield from _hidden_pieces(_split(inner))


def printable_text(text: str) -> str:
    """`text` with every URI in it made printable, and without pieces of known secrets: libraries repeat addresses."""
    if "://" in text:
        text = _URI_IN_TEXT.sub(lambda match: printable_uri(match[0]), text)
    text = _PARAMETER_IN_TEXT.sub(lambda match: f"{match['name']}=..." if is_secret(match["name"]) else match[0], text)
    for piece in sorted((piece for piece in tuple(_pieces) if piece in text), key=len, reverse=True):
        text = text.replace(piece, "...")
    return text


def is_relative(uri: str) -> bool:
    """Whether `uri` is a local path, bare or after `file:`, whose meaning depends on the working directory."""
    path = re.sub(r"^(file|local):(//)?", "", uri)
    try:
        return "://" not in path and not Path(path).expanduser().is_absolute()
    except RuntimeError:  # the home of nobody
        return True
