"""A folder of videos, with the captions in files beside them."""

import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from animatediff import storage
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.collections.not_taken import NonVideoFileCounts
from animatediff.data.sources.collections.sidecars import Sidecars, caption_in, is_video, too_large
from animatediff.data.sources.fetching.http import get
from animatediff.data.sources.fetching.local import local_path, open_regular, read_range
from animatediff.data.sources.fetching.reach import is_web
from animatediff.data.sources.files import errors_named
from animatediff.data.sources.limits import MAX_SIDECAR_BYTES
from animatediff.data.sources.spec import Fault, SourceConfig, SourceVideo
from animatediff.data.sources.tables.columns import Caption
from animatediff.uris import printable_uri

_BATCH_FILES = 1000
_FILES_AT_ONCE = 128
"""Object stores serve them side by side."""
_REQUESTS_AT_ONCE = 16


def read_folder(
    uri: str, names: Sequence[str], source: SourceConfig, not_taken: NonVideoFileCounts
) -> Iterator[SourceVideo]:
    """Yield the videos of a folder; one without a sidecar, or with one that cannot be read, says so in its fault.

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
    captions: dict[str, Caption] = {}
    for start in range(0, len(sidecars), _FILES_AT_ONCE):
        names = sidecars[start : start + _FILES_AT_ONCE]
        contents = _contents(uri, names, trusted=source.trusted)
        captions |= {name: _caption(content, name, uri, source) for name, content in zip(names, contents, strict=True)}
    return captions


def _contents(folder: str, names: list[str], *, trusted: bool) -> list[bytes | Exception]:
    """Return the files, each as far as caption files go and a byte beyond, or why it cannot be read."""
    uris = [storage.join(folder, name) for name in names]
    if local_path(folder) is not None:
        return [_of_disk(uri) for uri in uris]
    if is_web(folder):
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="captions") as pool:
            return list(pool.map(lambda uri: _of_web(uri, trusted), uris))
    with errors_named(folder):
        fs, root = storage.filesystem(folder)
        paths = [storage.join(root, name) for name in names]
        # Not `cat`, which takes brackets in file names for patterns.
        contents = fs.cat_ranges(paths, 0, MAX_SIDECAR_BYTES + 1, on_error="return")
    # A store serves no range of an empty file.
    return [
        b"" if isinstance(content, Exception) and _is_empty(fs, path) else content
        for content, path in zip(contents, paths, strict=True)
    ]


def _of_disk(uri: str) -> bytes | Exception:
    try:
        with open_regular(str(local_path(uri))) as file:
            return read_range(file, 0, MAX_SIDECAR_BYTES + 1)
    except OSError as error:
        return PermissionError(error.errno, error.strerror, uri)


def _of_web(uri: str, trusted: bool) -> bytes | Exception:
    try:
        return get(uri, max_bytes=MAX_SIDECAR_BYTES, trusted=trusted)
    except VideoError as error:
        return bytes(MAX_SIDECAR_BYTES + 1) if error.reason is Reason.TOO_LARGE else PermissionError(0, error.detail)
    except Exception as error:  # aiohttp's
        return error


def _is_empty(fs: Any, path: str) -> bool:
    try:
        return fs.info(path)["size"] == 0
    except Exception:  # what is wrong is told by the first error
        return False


def _caption(content: bytes | Exception, name: str, uri: str, source: SourceConfig) -> Caption:
    if isinstance(content, FileNotFoundError | PermissionError):  # deleted since the folder was listed, or a pipe
        return Caption("", Fault(Reason.BAD_CAPTION, f"{name} cannot be read: {content.strerror}"))
    if isinstance(content, Exception):
        with errors_named(printable_uri(storage.join(uri, name))):
            raise content
    return caption_in(content, name, source) if len(content) <= MAX_SIDECAR_BYTES else too_large(name)
