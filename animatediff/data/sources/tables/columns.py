"""Tables: which column is which, and a row as a video."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from animatediff.data.quarantine import Reason
from animatediff.data.sources.captions import clean_caption
from animatediff.data.sources.encodings import decode
from animatediff.data.sources.fetching.reach import Reach, unusable
from animatediff.data.sources.limits import MAX_CAPTION_CHARS
from animatediff.data.sources.spec import Columns, Fault, SourceConfig, SourceVideo
from animatediff.data.sources.uris import id_from
from animatediff.errors import UserError
from animatediff.uris import printable_uri

Role = Literal["id", "video", "caption"]
_SHOWN_NAMES, _SHOWN_CHARS = 30, 60
_GUESSES: dict[Role, tuple[str, ...]] = {
    "id": ("video_id", "videoid", "id", "clip_id", "uid", "uuid", "key"),
    "video": (
        *("video", "video_path", "videopath", "video_uri", "video_url", "video_file", "path", "file_path", "filepath"),
        *("file_name", "filename", "file", "uri", "url"),
    ),
    "caption": ("caption", "text", "prompt", "description", "name", "title"),
}


def find_column(role: Role, names: Sequence[str], columns: Columns) -> str | None:
    """Return the column that plays a role: the configured one, else the first common name that is there, else None."""
    chosen: str | None = getattr(columns, role)
    if chosen is not None:
        return chosen if chosen in names else None
    by_name = {name.strip().lower(): name for name in reversed(names)}
    return next((by_name[guess] for guess in _GUESSES[role] if guess in by_name), None)


def require_column(role: Role, names: Sequence[str], columns: Columns, uri: str) -> str:
    """Return the column that plays a role, as `find_column` does, and refuse where there is none.

    Raises:
        UserError: no column plays it; the message lists those that are there.
    """
    found = find_column(role, names, columns)
    if found is None:
        raise missing_column(role, getattr(columns, role), names, uri)
    return found


def shown(names: Sequence[str]) -> str:
    """Return names of columns or keys for a message: the first of them, on one line."""
    first = ", ".join(" ".join(name[:_SHOWN_CHARS].split()) for name in names[:_SHOWN_NAMES])
    return first if len(names) <= _SHOWN_NAMES else f"{first} and {len(names) - _SHOWN_NAMES} more"


def missing_column(role: str, name: str | None, names: Sequence[str], uri: str) -> UserError:
    """Return the one line for a column that is not there."""
    there = shown(names) or "no columns at all"
    what = f"no column {name!r}" if name is not None else f"no column that is known to hold the {role}"
    return UserError(f"{printable_uri(uri)} has {what}; it has {there}: set source.columns.{role}")


@dataclass(frozen=True)
class Mapping:
    """Which columns of a table are read."""

    id: str | None
    video: str
    caption: str


def map_columns(names: Sequence[str], columns: Columns, uri: str) -> Mapping:
    """Find the columns of a table whose rows name their video.

    Raises:
        UserError: one is missing.
    """
    return Mapping(
        id=find_column("id", names, columns) if columns.id is None else require_column("id", names, columns, uri),
        video=require_column("video", names, columns, uri),
        caption=require_column("caption", names, columns, uri),
    )


class NoText(NamedTuple):
    """What stands in a cell where a text is wanted, and is none or far too long: it is told and not kept."""

    what: str
    """With its article, for a person."""

    @classmethod
    def of(cls, value: object) -> "NoText":
        """Return what a value of JSON or Parquet is."""
        return cls.list_of(len(value)) if isinstance(value, list | tuple) else cls(f"a {type(value).__name__}")

    @classmethod
    def list_of(cls, length: int) -> "NoText":
        """Return a list of so many."""
        return cls(f"a list of {length}")


def text_of(value: object, encoding: str | None = None) -> str:
    """Return a cell as text: empty for null, NaN and infinity.

    Raises:
        ValueError: it is bytes that cannot be read as text, or neither text nor number.
    """
    if isinstance(value, bytes):
        value = decode(value, encoding)
    if isinstance(value, str):
        # Half a surrogate pair, as "\ud83d" in JSON, cannot be stored.
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"it is {(value if isinstance(value, NoText) else NoText.of(value)).what}")
    # Whole numbers of a thousand digits overflow what a float is asked.
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else str(value)


class Caption(NamedTuple):
    """What a source says of a video."""

    text: str
    """Clean; empty where there is none."""
    fault: Fault | None = None
    """Why there is none."""


def caption_of(value: object, place: str, encoding: str | None = None) -> Caption:
    """Return the caption in a cell or at a key: a text, a number, or a list of one.

    Args:
        value: what is there.
        place: what a person finds it by.
        encoding: of bytes, see `SourceConfig.encoding`.
    """
    if isinstance(value, list | tuple) and not isinstance(value, NoText) and len(value) == 1:
        (value,) = value
    if isinstance(value, bool) or not isinstance(value, str | bytes | int | float | None):
        kind = (value if isinstance(value, NoText) else NoText.of(value)).what
        return Caption("", Fault(Reason.BAD_CAPTION, f"{place} is {kind}, and one text is needed"))
    if isinstance(value, str | bytes) and len(value) > MAX_CAPTION_CHARS * (4 if isinstance(value, bytes) else 1):
        return _too_long(place, value)
    try:
        text = text_of(value, encoding)
        if len(text) > MAX_CAPTION_CHARS:
            return _too_long(place, text)
        text = clean_caption(text)
    except ValueError as error:
        return Caption("", Fault(Reason.BAD_CAPTION, f"{place}: {error}"))
    return Caption(text) if text else Caption("", Fault(Reason.NO_CAPTION, f"{place} is empty"))


def _too_long(place: str, value: str | bytes) -> Caption:
    unit = "characters" if isinstance(value, str) else "bytes"
    detail = f"{place} has {len(value)} {unit}, {MAX_CAPTION_CHARS} characters are allowed"
    return Caption("", Fault(Reason.BAD_CAPTION, detail))


@dataclass(frozen=True)
class Table:
    """One file of rows."""

    uri: str
    folder: str
    """What relative paths start from."""
    unit: Literal["line", "row"]
    """What its rows are counted in."""
    mapping: Mapping
    """Names of its columns, as far as they are said."""
    encoding: str | None = None
    """Encoding of cells that are bytes; see `SourceConfig.encoding`."""
    trusted: bool = False
    """Whether rows may point anywhere; see `SourceConfig.trusted`."""

    @classmethod
    def of(cls, source: SourceConfig, uri: str, unit: Literal["line", "row"], mapping: Mapping, folder: str) -> "Table":
        """Return the table at `uri`, with what the source says of all."""
        return cls(uri, folder.rstrip("/"), unit, mapping, source.encoding, source.trusted)

    def place(self, number: int) -> str:
        """URI that names a row for a person."""
        return f"{self.uri}#{self.unit}={number}"

    def unreadable(self, number: int, detail: str) -> SourceVideo:
        """Return a row of which nothing can be used, found by its place."""
        return SourceVideo("", self.place(number), "", Fault(Reason.BAD_ROW, f"{self.unit} {number} {detail}"))

    def video(self, number: int, path: object, caption: object, video_id: object) -> SourceVideo:
        """Return a row as a video; one without a path has no id, and its own place as URI, so that it can be found.

        Args:
            number: of the row, see `unit`.
            path: the video column.
            caption: the caption column.
            video_id: the id column; without one the id comes from the path.
        """
        try:
            text, name = (text_of(value, self.encoding).strip() for value in (path, video_id))
        except ValueError as error:
            return self.unreadable(number, f"has a path or an id that cannot be read: {error}")
        words = caption_of(caption, f"column {self.mapping.caption!r}", self.encoding)
        if not text:
            fault = Fault(Reason.BAD_ID, f"column {self.mapping.video!r} of {self.unit} {number} is empty")
            return SourceVideo("", self.place(number), words.text, fault)
        uri = self._reach.locate(text)
        if self.mapping.id is None:
            name = id_from(text) if isinstance(uri, str) or uri.reason is not Reason.BAD_ROW else ""
        return self._found(number, uri, text, name, words)

    def beneath(self, number: int, path: str, video_id: str, words: Caption) -> SourceVideo:
        """Return a row as a video whose path is put together from its cells, and relative."""
        return self._found(number, self._reach.beneath(path), path, video_id, words)

    @property
    def _reach(self) -> Reach:
        return Reach(self.uri, self.folder, self.trusted)

    def _found(self, number: int, uri: str | Fault, path: str, video_id: str, words: Caption) -> SourceVideo:
        fault = uri if isinstance(uri, Fault) else unusable(video_id, "id")
        if fault is None:
            return SourceVideo(video_id, str(uri), *words)
        if fault.reason is Reason.BAD_ROW:
            return self.unreadable(number, f"cannot be used: {fault.detail}")
        return SourceVideo(video_id, path, words.text, fault._replace(detail=f"{self.unit} {number}: {fault.detail}"))

    def cell(self, number: int, locator: str, caption: object, video_id: object) -> SourceVideo:
        """Return a row that holds its video, at `locator`, as a video."""
        try:
            name = text_of(video_id, self.encoding).strip()
        except ValueError as error:
            return self.unreadable(number, f"has an id that cannot be read: {error}")
        if fault := unusable(name, "id"):
            return self.unreadable(number, f"cannot be used: {fault.detail}")
        return SourceVideo(name, locator, *caption_of(caption, f"column {self.mapping.caption!r}", self.encoding))
