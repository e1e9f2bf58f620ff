"""Captions in files beside their videos: which file is whose, and what it says."""

import posixpath
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence

from animatediff.data.quarantine import Reason
from animatediff.data.sources.collections.not_taken import NonVideoFileCounts, kind_of
from animatediff.data.sources.encodings import decode
from animatediff.data.sources.limits import MAX_SIDECAR_BYTES
from animatediff.data.sources.spec import VIDEO_SUFFIXES, Fault, SourceConfig
from animatediff.data.sources.tables.columns import Caption, caption_of, find_column, shown
from animatediff.data.sources.tables.json_objects import parse_json, require_once

SUFFIXES = (".txt", ".json")
"""Suffixes of caption files, in lower case."""


class Sidecars:
    """Finds the caption files of videos.

    A video's are named as it is but for the suffix. Where no file has the very name, the suffix may be in upper case,
    the name's accents may be composed otherwise (macOS parts them), or letters may differ in case; but then the file
    has to be no other video's.

    Args:
        names: of all files, sorted.
        source: where it names `columns.caption`, `.json` files come before `.txt`.
    """

    def __init__(self, names: Sequence[str], source: SourceConfig) -> None:
        self._names = names
        self._suffixes = SUFFIXES if source.columns.caption is None else SUFFIXES[::-1]
        self._belongs = bytearray(len(names))
        self._odd: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            if is_sidecar(name) and (folded := _fold(name)) != name:
                self._odd.setdefault(folded, []).append(index)

    def of(self, stem: str) -> list[str]:
        """Return the caption files of a video, the preferred first.

        Args:
            stem: the video's name without suffix.
        """
        found = [index for suffix in self._suffixes if (index := self._find(stem, suffix)) is not None]
        for index in found:
            self._belongs[index] = True
        return [self._names[index] for index in found]

    def not_taken(self) -> NonVideoFileCounts:
        """Return the files that are neither videos nor, as far as `of` has been asked, their captions."""
        pairs = zip(self._names, self._belongs, strict=True)
        return NonVideoFileCounts(kind_of(name) for name, belongs in pairs if not belongs and not is_video(name))

    def missing(self, stem: str) -> Fault:
        """Return what is wrong with a video that has none."""
        name = posixpath.basename(stem)
        return Fault(Reason.NO_CAPTION, f"there is no {name}{self._suffixes[0]} or {name}{self._suffixes[1]} beside it")

    def _find(self, stem: str, suffix: str) -> int | None:
        exact = self._index(stem + suffix)
        if exact is not None:
            return exact
        folded = _fold(stem + suffix)
        plain = self._index(folded)
        candidates = self._odd.get(folded, []) + ([plain] if plain is not None else [])
        same = [index for index in candidates if self._stem(index) == stem]
        if same:
            return same[0]
        free = [index for index in candidates if not self._has_video(self._stem(index))]
        composed = [index for index in free if _nfc(self._stem(index)) == _nfc(stem)]
        if composed:
            return composed[0]
        return free[0] if len(free) == 1 else None

    def _index(self, name: str) -> int | None:
        index = bisect_left(self._names, name)
        return index if index < len(self._names) and self._names[index] == name else None

    def _stem(self, index: int) -> str:
        return posixpath.splitext(self._names[index])[0]

    def _has_video(self, stem: str) -> bool:
        suffixes = (form(suffix) for suffix in VIDEO_SUFFIXES for form in (str.lower, str.upper, str.title))
        return any(self._index(stem + suffix) is not None for suffix in suffixes)


def is_video(name: str) -> bool:
    """Whether a file's suffix is a video's."""
    return name.lower().endswith(VIDEO_SUFFIXES)


def is_sidecar(name: str) -> bool:
    """Whether a file's suffix is a caption file's."""
    return name.lower().endswith(SUFFIXES)


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _fold(name: str) -> str:
    """Return a name as it compares: its accents composed, and the file's own part in lower case."""
    folder, base = posixpath.split(_nfc(name))
    return posixpath.join(folder, base.casefold())


def caption_in(content: bytes, name: str, source: SourceConfig) -> Caption:
    """Return the caption in a sidecar file.

    Args:
        content: the file.
        name: its name: text, or in `.json` an object whose key `columns.caption`, or a common one, is the caption.
        source: its columns and encoding.
    """
    try:
        text = decode(content, source.encoding)
    except ValueError as error:
        return _bad(name, str(error))
    if not name.lower().endswith(".json"):
        return caption_of(text, name)
    try:
        values = parse_json(text)
    except ValueError as error:
        return _bad(name, f"it is no JSON: {error}")
    if not isinstance(values, dict):
        return _bad(name, "it holds no JSON object")
    key = find_column("caption", list(values), source.columns)
    if key is None:
        wanted = (
            repr(source.columns.caption) if source.columns.caption is not None else "that is known to hold a caption"
        )
        there = shown(list(values)) or "none at all"
        return _bad(name, f"it has no key {wanted} but {there}: set source.columns.caption")
    try:
        require_once(values, key)
    except ValueError as error:
        return _bad(name, f"it {error}")
    return caption_of(values[key], f"{name}, {key}", source.encoding)


def too_large(name: str) -> Caption:
    """In place of the caption of a file that is larger than caption files are."""
    return Caption("", Fault(Reason.BAD_CAPTION, f"{name} has more than {MAX_SIDECAR_BYTES} bytes"))


def _bad(name: str, what: str) -> Caption:
    return Caption("", Fault(Reason.BAD_CAPTION, f"{name}: {what}"))
