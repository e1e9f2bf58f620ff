"""Which files a source has: patterns expanded, and what lies below a folder, linked folders too."""

import logging
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import islice, product
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from animatediff import storage
from animatediff.data.sources.collections.not_taken import HIDDEN, NonVideoFileCounts
from animatediff.data.sources.files import errors_named, is_file
from animatediff.data.sources.limits import MAX_FILES
from animatediff.errors import UserError
from animatediff.uris import printable_uri

logger = logging.getLogger(__name__)

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{},]+(?:,[^{},]+)+)\}")
_MAX_DIGITS = 18
_GLOB = re.compile(r"[*?\[]")

_Identity = tuple[int, int]
"""A folder's identity, whatever it is called: device and inode."""


def expand(uri: str, not_taken: NonVideoFileCounts) -> list[str]:
    """Return the files that `uri` names.

    One, those of its brace ranges, or those that its `*`, `?` and `[]` match, sorted.

    Raises:
        UserError: nothing matches, or the storage cannot be reached.
    """
    if is_file(uri):
        return [uri]
    files: list[str] = []
    for plain in _expand_braces(uri):
        files += _glob(plain, not_taken)
        if len(files) > MAX_FILES:
            raise _too_many(uri)
    return files


def _expand_braces(uri: str) -> Iterator[str]:
    parts: list[Sequence[str]] = []
    end, number = 0, 1
    for match in _BRACES.finditer(uri):
        choices = _choices(match[1], match[2], match[3], uri)
        parts += [[uri[end : match.start()]], choices]
        number, end = number * len(choices), match.end()
        if number > MAX_FILES:
            raise _too_many(uri)
    return map("".join, product(*parts, [uri[end:]]))


def _choices(first: str, last: str, names: str | None, uri: str) -> Sequence[str]:
    if names:
        return names.split(",")
    if max(len(first), len(last)) > _MAX_DIGITS or int(last) - int(first) >= MAX_FILES:
        raise _too_many(uri)
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def _too_many(uri: str) -> UserError:
    return UserError(
        f"{printable_uri(uri)[:300]} names more than {MAX_FILES} files: take a narrower pattern (source.uri)"
    )


def _glob(uri: str, not_taken: NonVideoFileCounts) -> list[str]:
    # A web server lists nothing to match with, and "?" starts its query.
    if uri.startswith(("http://", "https://")) or not _GLOB.search(uri):
        return [uri]
    with errors_named(uri):
        fs, path = storage.filesystem(uri)
        matches = _match(path, not_taken) if isinstance(fs, LocalFileSystem) else iter(fs.glob(path))
        found = sorted(islice(matches, MAX_FILES + 1))
    if len(found) > MAX_FILES:
        raise _too_many(uri)
    if not found:
        raise UserError(f"no file matches {printable_uri(uri)} (source.uri)")
    return found if isinstance(fs, LocalFileSystem) else [fs.unstrip_protocol(name) for name in found]


def _match(pattern: str, not_taken: NonVideoFileCounts) -> Iterator[str]:
    """Local files and folders that match: fsspec does not look into linked folders."""
    root = posixpath.dirname(_GLOB.split(pattern, maxsplit=1)[0])
    if "**" not in pattern:
        yield from map(str, Path(root).glob(posixpath.relpath(pattern, root)))
        return
    matches = re.compile(glob_translate(pattern))
    for name in _walk(root, not_taken):
        if matches.match(path := posixpath.join(root, name)):
            yield path


def list_folder(uri: str, not_taken: NonVideoFileCounts) -> list[str]:
    """Return the paths, relative to the folder, of the files below it, sorted.

    Hidden ones (`.part`, `._a.mp4`) are left out.

    A local folder that is linked is listed as if it lay there; one that is reached a second time is not.

    Args:
        uri: the folder.
        not_taken: gets the hidden files, and the folders that are not listed.

    Raises:
        UserError: the folder cannot be read.
    """
    with errors_named(uri):
        fs, path = storage.filesystem(uri)
        if isinstance(fs, LocalFileSystem):
            names = sorted(_walk(path, not_taken))
        else:
            names = storage.find_files(uri)
            # Object stores keep what they listed, about a kilobyte a file.
            fs.invalidate_cache()
    shown = [name for name in names if not posixpath.basename(name).startswith(".")]
    if len(names) > len(shown):
        not_taken[HIDDEN] += len(names) - len(shown)
    return shown


def _walk(root: str, not_taken: NonVideoFileCounts) -> Iterator[str]:
    """Yield the files, in no order.

    What lies in the folder itself comes before what is linked, so that it keeps its name.
    """
    if not Path(root).is_dir():
        return
    seen: set[_Identity] = set()
    folders, links = [""], list[str]()
    while folders or links:
        is_link = not folders
        prefix = heappop(links) if is_link else folders.pop()
        place = posixpath.join(root, prefix)
        try:
            if _identity(place) in seen or (is_link and _holds(place, root)):
                logger.warning("the folder %s leads to what is listed already: it is not listed again", place)
                not_taken["linked folders that are listed already"] += 1
                continue
            with os.scandir(place) as entries:
                found = list(entries)
        except OSError as error:
            if not prefix:
                raise
            logger.warning("the folder %s cannot be read: %s", place, error.strerror)
            not_taken["folders that cannot be read"] += 1
            continue
        seen.add(_identity(place))
        for entry in found:
            if not _is_folder(entry):
                yield prefix + entry.name
            elif entry.is_symlink():
                heappush(links, f"{prefix}{entry.name}/")
            else:
                folders.append(f"{prefix}{entry.name}/")


def _identity(folder: str) -> _Identity:
    status = Path(folder).stat()
    return status.st_dev, status.st_ino


def _holds(folder: str, root: str) -> bool:
    """Whether it is above the root, from where everything would be listed again."""
    return Path(root).resolve().is_relative_to(Path(folder).resolve())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False
