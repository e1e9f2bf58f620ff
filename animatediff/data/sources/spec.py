"""What a source is: where it lies, how it is laid out, and what it yields."""

from dataclasses import dataclass
from typing import Literal

from animatediff.config import Config

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """One video as its source names it."""

    video_id: str
    """From the source's content, never from an order; empty where a row gives none."""
    uri: str
    """What `fetch` reads: a file, or a part of one named by a fragment."""
    caption: str
    """As `clean_caption` leaves it; empty when the source has none."""


class Columns(Config):
    """Names of a table's columns, or of a JSON object's keys; unset ones are guessed from common names."""

    id: str | None = None
    """Unique name of a video; default: a column like `video_id` or `id`, else the video's path or URL."""
    video: str | None = None
    """Path or URI of the video; default: a column like `video`, `path`, `file_name` or `url`."""
    caption: str | None = None
    """Default: a column like `caption`, `text` or `prompt`."""
    bytes: str | None = None
    """Parquet column that holds the video files themselves; a field of a struct column is `column.field`."""


class SourceConfig(Config):
    """Where captioned videos come from."""

    uri: str
    """A table, a folder or tars; a pattern (`*.tar`, `{00000..00099}.tar`) names several files."""
    format: Literal["auto", "webvid", "csv", "tsv", "jsonl", "parquet", "folder", "webdataset"] = "auto"
    """auto goes by the file's suffix, a CSV's columns, and what a folder holds."""
    videos_uri: str | None = None
    """Folder that a table's relative paths start from; default: the table's own, for WebVid `videos` beside it."""
    columns: Columns = Columns()
