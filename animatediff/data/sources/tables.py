"""Tables: which column is which, and a row as a video."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from animatediff import storage
from animatediff.data.quarantine import Reason
from animatediff.data.sources.captions import clean_caption
from animatediff.data.sources.encodings import decode
from animatediff.data.sources.spec import Columns, Fault, SourceVideo
from animatediff.data.sources.uris import id_from
from animatediff.errors import UserError
from animatediff.uris import printable_uri

Role = Literal["id", "video", "caption"]
_GUESSES: dict[Role, tuple[str, ...]] = {
    "id": ("video_id", "videoid", "id", "clip_id", "uid", "uuid", "key"),
    "video": (
        *("video", "video_path", "videopath", "video_uri", "video_url", "video_file", "path", "file_path", "filepath"),
        *("file_name", "filename", "file", "uri", "url"),
    ),
    "caption": ("caption", "text", "prompt", "description", "name", "title"),
}


def find_column(role: Role, names: Sequence[str], columns: Columns) -> str | None:
    """The column that plays a role: the configured one, else the first common name that is there, else None."""
    chosen: str | None = getattr(columns, role)
    if chosen is not None:
        return chosen if chosen in names else None
    by_name = {name.strip().lower(): name for name in reversed(names)}
    return next((by_name[guess] for guess in _GUESSES[role] if guess in by_name), None)


def require_column(role: Role, names: Sequence[str], columns: Columns, uri: str) -> str:
    """`find_column`, where the role must be played.

    Raises:
        UserError: no column plays it; the message lists those that are there.
    """
    found = find_column(role, names, columns)
    if found is None:
        raise missing_column(role, getattr(columns, role), names, uri)
    return found


def missing_column(role: str, name: str | None, names: Sequence[str], uri: str) -> UserError:
    """The one line for a column that is not there."""
    there = ", ".join(names) or "no columns at all"
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


def text_of(value: object, encoding: str | None = None) -> str:
    """A cell as text: empty for null, NaN, and what is neither text nor number.

    Raises:
        ValueError: it is bytes that cannot be read as text.
    """
    if isinstance(value, bytes):
        value = decode(value, encoding)
    if isinstance(value, str):
        # Half a surrogate pair, as "\ud83d" in JSON, cannot be stored.
        return value if value.isascii() else value.encode(errors="replace").decode()
    return str(value) if isinstance(value, int | float) and value == value else ""


class Caption(NamedTuple):
    """What a source says of a video."""

    text: str
    """Clean; empty where there is none."""
    fault: Fault | None = None
    """Why there is none."""


def caption_of(value: object, place: str, encoding: str | None = None) -> Caption:
    """The caption in a cell or at a key: a text, a number, or a list of one.

    Args:
        value: what is there.
        place: what a person finds it by.
        encoding: of bytes, see `SourceConfig.encoding`.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, bool) or not isinstance(value, str | bytes | int | float | None):
        kind = f"a list of {len(value)}" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        return Caption("", Fault(Reason.BAD_CAPTION, f"{place} is {kind}, and one text is needed"))
    try:
        text = clean_caption(text_of(value, encoding))
    except ValueError as error:
        return Caption("", Fault(Reason.BAD_CAPTION, f"{place}: {error}"))
    return Caption(text) if text else Caption("", Fault(Reason.NO_CAPTION, f"{place} is empty"))


@dataclass(frozen=True)
class Table:
    """One file of rows."""

    uri: str
    folder: str
    """What relative paths start from."""
    unit: Literal["line", "row"]
    """What its rows are counted in."""
    mapping: Mapping
    """Its columns."""
    encoding: str | None = None
    """Of cells that are bytes, see `SourceConfig.encoding`."""

    def place(self, number: int) -> str:
        """URI that names a row for a person."""
        return f"{self.uri}#{self.unit}={number}"

    def unreadable(self, number: int, detail: str) -> SourceVideo:
        """A row of which nothing can be used, found by its place."""
        return SourceVideo("", self.place(number), "", Fault(Reason.BAD_ROW, f"{self.unit} {number} {detail}"))

    def video(self, number: int, path: object, caption: object, video_id: object) -> SourceVideo:
        """A row as a video; one without a path has no id, and its own place as URI, so that it can be found.

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
        name = name if self.mapping.id is not None else id_from(text)
        return SourceVideo(name, self._locate(text), *words)

    def _locate(self, path: str) -> str:
        return path if path.startswith("/") or "://" in path else storage.join(self.folder, path)
