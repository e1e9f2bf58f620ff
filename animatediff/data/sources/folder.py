"""A folder of videos, with the captions in files beside them."""

import posixpath
from collections.abc import Iterator, Sequence
from itertools import islice

from animatediff import storage
from animatediff.data.quarantine import Reason
from animatediff.data.sources.files import told
from animatediff.data.sources.not_taken import NotTaken
from animatediff.data.sources.sidecars import Sidecars, caption_in, is_video
from animatediff.data.sources.spec import Fault, SourceConfig, SourceVideo
from animatediff.data.sources.tables import Caption
from animatediff.uris import printable_uri

_BATCH_FILES = 1000
"""Sidecars that are read at once: object stores serve them side by side."""


def read_folder(uri: str, names: Sequence[str], source: SourceConfig, not_taken: NotTaken) -> Iterator[SourceVideo]:
    """The videos of a folder; one without a sidecar, or with one that cannot be read, says so in its fault.

    Args:
        uri: the folder.
        names: all its files, relative and sorted.
        source: its columns and encoding, see `Sidecars` and `caption_in`.
        not_taken: gets the files that are neither videos nor their captions.

    Raises:
        UserError: the storage cannot be reached.
    """
    sidecars = Sidecars(names, source)
    videos = filter(is_video, names)
    while batch := list(islice(videos, _BATCH_FILES)):
        found = [sidecars.of(posixpath.splitext(name)[0]) for name in batch]
        captions = _read_captions(uri, [first for first, *_ in filter(None, found)], source)
        for name, files in zip(batch, found, strict=True):
            missing = Caption("", sidecars.missing(posixpath.splitext(name)[0]))
            yield _video(uri, name, captions[files[0]] if files else missing)
    not_taken.update(sidecars.not_taken())


def _video(uri: str, name: str, caption: Caption) -> SourceVideo:
    # A file name that is no Unicode cannot be an id, nor be stored.
    text = name.encode(errors="replace").decode()
    if text != name:
        return SourceVideo("", storage.join(uri, text), caption.text, Fault(Reason.BAD_ID, "its name is no Unicode"))
    return SourceVideo(name, storage.join(uri, name), *caption)


def _read_captions(uri: str, sidecars: list[str], source: SourceConfig) -> dict[str, Caption]:
    """Captions by the sidecar's name."""
    with told(uri):
        fs, root = storage.filesystem(uri)
        # Not `cat`, which takes brackets in file names for patterns.
        contents = fs.cat_ranges([storage.join(root, name) for name in sidecars], None, None, on_error="return")
    return {name: _caption(content, name, uri, source) for name, content in zip(sidecars, contents, strict=True)}


def _caption(content: bytes | Exception, name: str, uri: str, source: SourceConfig) -> Caption:
    if isinstance(content, FileNotFoundError | PermissionError):  # deleted since the folder was listed
        return Caption("", Fault(Reason.BAD_CAPTION, f"{name} cannot be read: {content.strerror}"))
    if isinstance(content, Exception):
        with told(printable_uri(storage.join(uri, name))):
            raise content
    return caption_in(content, name, source)
