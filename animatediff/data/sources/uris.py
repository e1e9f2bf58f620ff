"""URIs of videos: ids from them, and fragments that name a part of a file."""

import hashlib
import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from animatediff.data.sources.spec import VIDEO_SUFFIXES
from animatediff.storage.errors import reason
from animatediff.uris import is_secret, printable_place

# Of so many digits that 64 bits hold them.
_TAR_MEMBER = re.compile(r"(?P<uri>.+)#offset=(?P<offset>\d{1,18})&bytes=(?P<num_bytes>\d{1,18})", re.DOTALL | re.ASCII)
_PARQUET_CELL = re.compile(
    r"(?P<uri>.+)#group=(?P<group>\d{1,18})&row=(?P<row>\d{1,18})&column=(?P<column>[^&#]+)", re.DOTALL | re.ASCII
)

_SHOT_PART = re.compile(r"(?P<uri>.+)#pts=(?P<start>-?\d{1,18}),(?P<last>-?\d{1,18})", re.DOTALL | re.ASCII)

_SIGNATURE = re.compile(r"x-(amz|goog|ms)-signature|signature|sig", re.IGNORECASE)
_ALWAYS_SECRET = re.compile(r"x-(amz|goog|ms)-.*|.*(secret|password|credential|signature).*|sig|expires", re.IGNORECASE)


class TarMember(NamedTuple):
    """A file inside an uncompressed tar."""

    uri: str
    offset: int
    """Bytes from the tar's start to the member's content."""
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.uri}#offset={self.offset}&bytes={self.num_bytes}"


class ParquetCell(NamedTuple):
    """A value in a Parquet file."""

    uri: str
    group: int
    """Index of the row group."""
    row: int
    """Row inside it."""
    column: str
    """Path of the column; a struct's field is `column.field`."""

    def __str__(self) -> str:
        return f"{self.uri}#group={self.group}&row={self.row}&column={quote(self.column, safe='')}"


class ShotPart(NamedTuple):
    """A shot of a video."""

    uri: str
    """Of the video: a file, or a part of one named by a fragment."""
    start_pts: int
    """Timestamp of the shot's first frame, in the time base of the video's stream."""
    last_pts: int
    """Timestamp of its last frame."""

    def __str__(self) -> str:
        return f"{self.uri}#pts={self.start_pts},{self.last_pts}"


def parse_shot_part(uri: str) -> ShotPart | None:
    """Return the shot of a video that `uri` names; None when it names a video."""
    match = _SHOT_PART.fullmatch(uri) if "#pts=" in uri else None
    return ShotPart(match["uri"], int(match["start"]), int(match["last"])) if match else None


def parse_locator(uri: str) -> TarMember | ParquetCell | None:
    """Return the part of a file that `uri` names; None when it names a whole file, whose name may well hold a `#`."""
    if "#" not in uri:
        return None
    if match := _TAR_MEMBER.fullmatch(uri):
        return TarMember(match["uri"], int(match["offset"]), int(match["num_bytes"]))
    if match := _PARQUET_CELL.fullmatch(uri):
        return ParquetCell(match["uri"], int(match["group"]), int(match["row"]), unquote(match["column"]))
    return None


def describe(error: Exception) -> str:
    """Return one line for whatever a storage raised, without secrets."""
    return reason(error)[:300]


def id_from(uri: str) -> str:
    """Return a video's id from where it lies: host and path, or the relative path.

    Signatures are left out, so that a signed URL keeps its id when it is signed again. A parameter that is only called
    like a secret (`get?key=1.mp4`) is part of the id, as a hash.
    """
    name = printable_place(uri)
    name = name.partition("://")[2] or name
    name = name.removeprefix("./").lstrip("/")
    content = _hidden_content(uri)
    if content:
        digest = hashlib.sha256("&".join(content).encode()).hexdigest()[:16]
        name, hash_sign, fragment = name.partition("#")
        name = f"{name}{'&' if '?' in name else '?'}hidden={digest}{hash_sign}{fragment}"
    # An id may not lead out of a folder, but a path may.
    return hashlib.sha256(name.encode()).hexdigest()[:32] if ".." in name.split("/") else name


def _hidden_content(uri: str) -> list[str]:
    """Return the parts of a URL's query that `printable_uri` leaves out though they say which file is meant."""
    if "://" not in uri or "?" not in uri:
        return []
    url = urlsplit(uri)
    hidden = [part for part in url.query.split("&") if is_secret(part.partition("=")[0])]
    is_signed = any(_SIGNATURE.fullmatch(part.partition("=")[0]) for part in hidden)
    names_file = url.path.lower().endswith(VIDEO_SUFFIXES)
    return [part for part in hidden if _is_content(*part.split("=", 1), is_signed=is_signed, names_file=names_file)]


def _is_content(name: str, value: str = "", *, is_signed: bool, names_file: bool) -> bool:
    if _ALWAYS_SECRET.fullmatch(name) or not value:
        return False
    if value.lower().endswith(VIDEO_SUFFIXES):
        return True
    if name.lower() in ("key", "policy"):
        return not (is_signed and name.lower() == "policy")
    return not (is_signed or names_file)
