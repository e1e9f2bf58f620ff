"""Sources: captioned videos from a WebVid CSV or from a folder with sidecar captions."""

import csv
import io
import posixpath
from dataclasses import dataclass

from animatediff import storage
from animatediff.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
_LAYOUT_PROBES = 20


@dataclass(frozen=True)
class SourceVideo:
    """One video as its source names it."""

    video_id: str
    """From the source, never from an order: WebVid's id, or the path inside the folder."""
    uri: str
    caption: str
    """White space collapsed; empty when the source has none."""


def read_source(uri: str, *, videos_uri: str | None = None) -> list[SourceVideo]:
    """All videos of a source, in the source's order.

    Args:
        uri: a WebVid CSV (`.csv`), or a folder of videos with a `.txt` caption beside each.
        videos_uri: for a CSV, the folder of the videos; default the folder `videos` beside the CSV.

    Raises:
        UserError: the source is missing or unreachable, or it holds no videos.
    """
    if uri.lower().endswith(".csv"):
        return _read_webvid(uri, videos_uri or storage.join(posixpath.dirname(uri), "videos"))
    if videos_uri is not None:
        raise UserError(f"source.videos_uri goes with a CSV, but source.uri is the folder {uri}: remove one of them")
    return _read_folder(uri)


def _read_webvid(uri: str, videos_uri: str) -> list[SourceVideo]:
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), restval=""))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {uri}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{uri} is no CSV in UTF-8: {error}") from error
    if not rows:
        raise UserError(f"{uri} lists no videos")
    missing = {"videoid", "name"} - set(rows[0])
    if missing:
        raise UserError(f"{uri} is no WebVid CSV: it has no column {' and no column '.join(sorted(missing))}")
    layout = _find_layout(rows, uri, videos_uri)
    return [
        SourceVideo(row["videoid"], storage.join(videos_uri, layout.format(**row)), _clean(row["name"])) for row in rows
    ]


def _find_layout(rows: list[dict[str, str]], uri: str, videos_uri: str) -> str:
    """WebVid's own layout, or the flat one: the first under which one of the first rows has its file."""
    layouts = ["{page_dir}/{videoid}.mp4", "{videoid}.mp4"] if "page_dir" in rows[0] else ["{videoid}.mp4"]
    for row in rows[:_LAYOUT_PROBES]:
        for layout in layouts:
            if storage.exists(storage.join(videos_uri, layout.format(**row))):
                return layout
    tried = " nor ".join(storage.join(videos_uri, layout.format(**rows[0])) for layout in layouts)
    raise UserError(f"the videos of {uri} are not there: neither {tried} exists (set source.videos_uri)")


def _read_folder(uri: str) -> list[SourceVideo]:
    files = set(storage.find_files(uri))
    videos = sorted(name for name in files if name.lower().endswith(VIDEO_SUFFIXES))
    if not videos:
        kinds = ", ".join(VIDEO_SUFFIXES)
        raise UserError(f"there are no videos ({kinds}) in the folder {uri}")
    return [SourceVideo(name, storage.join(uri, name), _sidecar(uri, name, files)) for name in videos]


def _sidecar(uri: str, video: str, files: set[str]) -> str:
    name = posixpath.splitext(video)[0] + ".txt"
    if name not in files:
        return ""
    return _clean(storage.read_bytes(storage.join(uri, name)).decode("utf-8", errors="replace"))


def _clean(caption: str) -> str:
    return " ".join(caption.split())
