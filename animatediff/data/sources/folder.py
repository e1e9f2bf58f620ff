"""A folder of videos, with the captions in files beside them."""

import json
import posixpath
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice

from animatediff import storage
from animatediff.data.sources.captions import clean_caption
from animatediff.data.sources.files import told
from animatediff.data.sources.spec import VIDEO_SUFFIXES, Columns, SourceVideo
from animatediff.data.sources.tables import find_column, text_of
from animatediff.uris import printable_uri

_BATCH_FILES = 1000
"""Sidecars that are read at once: object stores serve them side by side."""


def read_folder(uri: str, names: Sequence[str], columns: Columns) -> Iterator[SourceVideo]:
    """The videos of a folder; a video without a sidecar, or with a broken one, has no caption.

    Args:
        uri: the folder.
        names: all its files, relative and sorted.
        columns: `caption` is the key in `.json` sidecars, and where it is set they come before `.txt`.

    Raises:
        UserError: the storage cannot be reached.
    """
    videos = (name for name in names if name.lower().endswith(VIDEO_SUFFIXES))
    while batch := list(islice(videos, _BATCH_FILES)):
        sidecars = [_find_sidecar(name, names, columns) for name in batch]
        captions = _read_captions(uri, [name for name in sidecars if name], columns)
        for name, sidecar in zip(batch, sidecars, strict=True):
            yield _video(uri, name, captions.get(sidecar or "", ""))


def _video(uri: str, name: str, caption: str) -> SourceVideo:
    # A file name that is no Unicode cannot be an id, nor be stored.
    text = name.encode(errors="replace").decode()
    return SourceVideo(name if text == name else "", storage.join(uri, text), caption)


def _find_sidecar(video: str, names: Sequence[str], columns: Columns) -> str | None:
    stem = posixpath.splitext(video)[0]
    return next((stem + suffix for suffix in sidecar_suffixes(columns) if _is_in(names, stem + suffix)), None)


def _is_in(names: Sequence[str], name: str) -> bool:
    index = bisect_left(names, name)
    return index < len(names) and names[index] == name


def sidecar_suffixes(columns: Columns) -> tuple[str, str]:
    """Which kinds of caption files are looked for, the preferred first."""
    return (".txt", ".json") if columns.caption is None else (".json", ".txt")


def _read_captions(uri: str, sidecars: list[str], columns: Columns) -> dict[str, str]:
    """Captions by the sidecar's name."""
    with told(uri):
        fs, root = storage.filesystem(uri)
        # Not `cat`, which takes brackets in file names for patterns.
        contents = fs.cat_ranges([storage.join(root, name) for name in sidecars], None, None, on_error="return")
    return {
        name: caption_in(_content(content, storage.join(uri, name)), posixpath.splitext(name)[1], columns)
        for name, content in zip(sidecars, contents, strict=True)
    }


def _content(content: bytes | Exception, uri: str) -> bytes:
    if isinstance(content, FileNotFoundError):  # deleted since the folder was listed
        return b""
    if isinstance(content, Exception):
        with told(printable_uri(uri)):
            raise content
    return content


def caption_in(content: bytes, suffix: str, columns: Columns) -> str:
    """The caption in a sidecar file.

    Args:
        content: the file.
        suffix: `.txt`, or `.json` for an object whose key `columns.caption`, or a common one, holds the caption.
        columns: see `suffix`.

    Returns:
        The clean caption; empty where there is none.
    """
    text = content.decode("utf-8-sig", errors="replace")
    if suffix != ".json":
        return clean_caption(text)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(values, dict):
        return ""
    key = find_column("caption", list(values), columns)
    return clean_caption(text_of(values[key])) if key is not None else ""
