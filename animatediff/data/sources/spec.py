"""What a source is: where it lies, how it is laid out, and what it yields."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import field_validator

from animatediff.config import Config
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.quarantine import Reason
from animatediff.uris import Uri

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".qt", ".3gp", ".3g2", ".f4v", ".flv", ".wmv", ".asf", ".divx", ".ogv", ".rm", ".rmvb", ".mxf", ".dv"),
    *(".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob", ".mts", ".m2ts", ".ts", ".gif", ".apng"),
)
"""Of files that FFmpeg decodes. Animated WebP it does not, and an AVIF sequence gives its first picture alone."""

AMBIGUOUS_SUFFIXES = (".gif", ".apng", ".ts")
"""Of previews and code as well: they do not say that a folder is one of videos where it holds tars or tables."""


class Fault(NamedTuple):
    """Why something that a source names cannot be used."""

    reason: Reason
    detail: str
    """One line for a person."""


@dataclass(frozen=True, slots=True)
class SourceVideo:
    """One video as its source names it."""

    video_id: str
    """From the source's content, never from an order; empty where a row gives none."""
    uri: str
    """What `fetch` reads: a file, or a part of one named by a fragment."""
    caption: str
    """As `clean_caption` leaves it; empty when the source has none."""
    fault: Fault | None = field(default=None, compare=False)
    """Why it cannot be used, where reading the source shows it; it does not count where videos are compared."""
    crop: CropBox | None = None
    """What is cut out of its picture before clips are; None for the whole picture."""
    tags: tuple[str, ...] = ()
    """Those of a tagger, the most important first, where the source has some."""

    @property
    def num_chars(self) -> int:
        """Characters of all that is kept of the video."""
        return len(self.video_id) + len(self.uri) + len(self.caption) + sum(map(len, self.tags))


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

    uri: Uri
    """A table, a folder or tars; a pattern (`*.tar`, `{00000..00099}.tar`) names several files."""
    format: Literal["auto", "webvid", "csv", "tsv", "jsonl", "parquet", "folder", "webdataset"] = "auto"
    """auto goes by the file's suffix, a CSV's columns, and what a folder holds. The folder of a curated collection is
    told by its manifest."""
    videos_uri: Uri | None = None
    """Folder that a table's relative paths start from; default: the table's own, for WebVid `videos` beside it."""
    columns: Columns = Columns()
    encoding: str | None = None
    """Of caption files and tables that are neither UTF-8 nor begin with a byte order mark, for example `cp1252`
    (Western Europe), `cp932` (Shift-JIS), `gbk` or `euc_kr`. Without it, such captions and lines are
    quarantined: an encoding that is guessed wrong is rubbish that nobody sees."""
    trusted: bool = False
    """Whether its tables and servers may send the workers anywhere: a remote table to local files, a web server to
    addresses inside the network, both to the cloud's metadata service. Leave it off for what others wrote."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                "a".encode(value)
        except LookupError as error:
            raise ValueError(f"Python knows no text encoding {value!r}: cp1252, cp932 and gbk are some") from error
        return value
