"""Webdataset tars: samples are files of one name, told apart by what follows its first dot."""

import logging
import posixpath
import tarfile
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from animatediff.data.quarantine import Reason
from animatediff.data.sources.collections.not_taken import HIDDEN, NonVideoFileCounts, kind_of
from animatediff.data.sources.collections.sidecars import Sidecars, caption_in, is_sidecar, is_video, too_large
from animatediff.data.sources.collections.tar_members import NONSENSE, is_plain, read_members
from animatediff.data.sources.files import errors_named, no_ranges, opened
from animatediff.data.sources.limits import MAX_CAPTIONS_BYTES, MAX_NAME_CHARS, MAX_SIDECAR_BYTES
from animatediff.data.sources.spec import VIDEO_SUFFIXES, Fault, SourceConfig, SourceVideo
from animatediff.data.sources.tables.columns import Caption
from animatediff.data.sources.uris import TarMember, describe
from animatediff.errors import UserError
from animatediff.uris import printable_uri

logger = logging.getLogger(__name__)

# Headers of remote tars are read one round trip after the other, so several tars are read side by side.
_TARS_AT_ONCE = 16
# The captions beside a video come with its header in one read.
_BLOCK_BYTES = 64 << 10
_SHOWN_CHARS = 100
_MAX_LINKS = 40
"""That are followed from one to the next, as Linux has it."""


@dataclass
class _Contents:
    """What a tar holds."""

    members: dict[str, TarMember] = field(default_factory=dict)
    """All regular files, by name."""
    videos: list[tuple[str, TarMember | Fault]] = field(default_factory=list)
    """By name, in the tar's order; two of one name are both there."""
    captions: dict[str, Caption] = field(default_factory=dict)
    captions_left: int = MAX_CAPTIONS_BYTES
    """Characters of captions that may still be held."""
    links: list[tuple[str, str]] = field(default_factory=list)
    """Names of links, and of what they lead to."""
    unnamed: list[SourceVideo] = field(default_factory=list)
    """Videos whose names can be no ids."""
    order: dict[str, int] = field(default_factory=dict)
    """Place of each sample's first file."""
    not_taken: NonVideoFileCounts = field(default_factory=NonVideoFileCounts)


def read_tars(
    uris: Sequence[str], root: str, source: SourceConfig, not_taken: NonVideoFileCounts
) -> Iterator[SourceVideo]:
    """Yield the videos of tars. Only headers and captions are read.

    A tar that is damaged gives the videos before the damage, then one without an id, whose URI names the place.

    Args:
        uris: the tars, not compressed.
        root: the folder that ids name them from: an id is the tar's relative path, `/`, the sample's name.
        source: its columns and encoding, see `Sidecars` and `caption_in`.
        not_taken: gets the files that belong to no video.

    Raises:
        UserError: a tar is missing or compressed, or its server serves no byte ranges.
    """
    pool = ThreadPoolExecutor(_TARS_AT_ONCE, thread_name_prefix="tars")
    ahead: deque[Future[tuple[list[SourceVideo], NonVideoFileCounts]]] = deque()
    try:
        for uri, name in zip(uris, _tar_names(uris, root), strict=True):
            ahead.append(pool.submit(_read_tar, uri, name, source))
            if len(ahead) >= _TARS_AT_ONCE:
                yield from _take(ahead.popleft(), not_taken)
        while ahead:
            yield from _take(ahead.popleft(), not_taken)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _take(
    tar: Future[tuple[list[SourceVideo], NonVideoFileCounts]], not_taken: NonVideoFileCounts
) -> list[SourceVideo]:
    videos, left = tar.result()
    not_taken.update(left)
    return videos


def _tar_names(uris: Sequence[str], root: str) -> list[str]:
    """Return what ids begin with: without the query, unless that is all that tells the tars apart."""
    full = [printable_uri(uri).removeprefix(printable_uri(root)).lstrip("/") for uri in uris]
    short = [name.partition("?")[0] if "://" in uri else name for name, uri in zip(full, uris, strict=True)]
    names = short if len(set(short)) == len(short) else full
    return [name.removesuffix(".tar") for name in names]


def _read_tar(uri: str, name: str, source: SourceConfig) -> tuple[list[SourceVideo], NonVideoFileCounts]:
    contents = _Contents()
    damage = []
    with opened(uri, block_size=_BLOCK_BYTES) as file, errors_named(uri):
        _check(file, uri)
        size = file.seek(0, 2)
        file.seek(0)
        try:
            for member, content in read_members(file, size):
                _add(contents, member, content, uri, source)
        except NONSENSE as error:
            if isinstance(error, ValueError) and "range" in str(error):  # fsspec's, of a server with the whole file
                raise no_ranges(uri) from error
            logger.warning("%s is damaged, what follows is not read: %s", printable_uri(uri), describe(error))
            fault = Fault(Reason.TRUNCATED, f"the tar is damaged, and not read from here on: {describe(error)}")
            damage.append(SourceVideo("", f"{uri}#offset={file.tell()}", "", fault))
        _follow_links(contents, file, source)
    videos = [*_videos(contents, uri, name, source), *contents.unnamed, *damage]
    if not videos:
        contents.not_taken["tars without a video"] += 1
    return videos, contents.not_taken


def _check(file: Any, uri: str) -> None:
    if not file.seekable():
        raise no_ranges(uri)
    if file.read(3) in (b"\x1f\x8b\x08", b"BZh", b"\xfd7z", b"\x28\xb5\x2f"):
        raise UserError(
            f"{printable_uri(uri)} is compressed, so nothing in it can be read alone: store it as plain tar"
        )


def _add(contents: _Contents, member: tarfile.TarInfo, content: bytes, uri: str, source: SourceConfig) -> None:
    name = member.name.removeprefix("./")
    if len(name) > MAX_NAME_CHARS or "\0" in name:
        _set_aside(contents, name, uri)
        return
    if member.isdir():
        return
    if posixpath.basename(name).startswith("."):
        contents.not_taken[HIDDEN] += 1
        return
    contents.order.setdefault(_sample_of(name), len(contents.order))
    if (member.issym() or member.islnk()) and len(member.linkname) <= MAX_NAME_CHARS:
        folder = posixpath.dirname(name) if member.issym() else ""
        contents.links.append((name, posixpath.normpath(posixpath.join(folder, member.linkname))))
        return
    if is_plain(member):
        contents.members[name] = TarMember(uri, member.offset_data, member.size)
    if is_video(name):
        refusal = Fault(Reason.FETCH_REFUSED, f"{name} is sparse, or no regular file: store it whole")
        contents.videos.append((name, contents.members[name] if is_plain(member) else refusal))
    elif is_sidecar(name) and is_plain(member):
        _keep_caption(contents, name, content if member.size <= MAX_SIDECAR_BYTES else None, source)
    else:
        contents.not_taken[kind_of(name)] += 1


def _set_aside(contents: _Contents, name: str, uri: str) -> None:
    """Take a name that can be no id for that of a video that cannot be used, or count it."""
    if is_video(name):
        shown = name[:_SHOWN_CHARS].replace("\0", "?")
        fault = Fault(Reason.BAD_ID, f"the name that begins with {shown} has {len(name)} characters, or a NUL")
        contents.unnamed.append(SourceVideo("", f"{uri}#{shown}", "", fault))
    else:
        contents.not_taken[kind_of(name)] += 1


def _keep_caption(contents: _Contents, name: str, content: bytes | None, source: SourceConfig) -> None:
    caption = too_large(name) if content is None else caption_in(content, name, source)
    contents.captions_left -= len(caption.text)
    if contents.captions_left < 0:
        detail = f"{name}: the captions of this tar have more than {MAX_CAPTIONS_BYTES} characters"
        caption = Caption("", Fault(Reason.BAD_CAPTION, detail))
    contents.captions[name] = caption


def _follow_links(contents: _Contents, file: Any, source: SourceConfig) -> None:
    """Take linked videos and captions for what they lead to."""
    targets = dict(contents.links)
    for name, linked in contents.links:
        passed, target = {name}, linked
        while target in targets and target not in passed and len(passed) < _MAX_LINKS:
            passed.add(target)
            target = targets[target]
        place = contents.members.get(target)
        if is_video(name):
            lost = Fault(Reason.NOT_FOUND, f"{name} is a link to {target}, which the tar does not hold")
            contents.videos.append((name, place or lost))
        elif is_sidecar(name) and place is not None and place.num_bytes <= MAX_SIDECAR_BYTES:
            file.seek(place.offset)
            _keep_caption(contents, name, file.read(place.num_bytes), source)
        else:
            contents.not_taken[kind_of(name)] += 1


def _sample_of(name: str) -> str:
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


def _stem_of(name: str) -> str:
    return posixpath.splitext(name)[0]


def _rank(name: str) -> int:
    return VIDEO_SUFFIXES.index(posixpath.splitext(name)[1].lower())


def _videos(contents: _Contents, uri: str, tar_name: str, source: SourceConfig) -> Iterator[SourceVideo]:
    """Yield the videos, samples in the tar's order.

    A name with dots, as `Track 2.0 (live).mp4`, is a video's own where a caption has all of it, or where no caption
    has what is before its first dot. Else, as webdataset has it, `a.depth.mp4` is a part of the sample of `a.txt`: a
    sample has one video, `a.mp4` or else the one with the shortest rest, and its others are counted.
    """
    sidecars = Sidecars(sorted({*contents.captions, *(name for name, _ in contents.videos)}), source)
    stems: dict[str, list[str]] = defaultdict(list)
    for name, _ in contents.videos:
        stems[_stem_of(name)].append(name)
    parts: dict[str, list[str]] = defaultdict(list)
    for stem in stems:
        sample = _sample_of(stem)
        if stem != sample and not sidecars.of(stem) and sidecars.of(sample):
            parts[sample].append(stem)
    ids = {stem: stem for stem in stems}
    for sample, others in parts.items():
        if sample not in stems:
            ids[min(others, key=len)] = sample
            others.remove(min(others, key=len))
        for stem in others:
            del ids[stem]
    bests = {stem: min(names, key=_rank) for stem, names in stems.items()}
    for name, place in sorted(contents.videos, key=lambda video: contents.order[_sample_of(video[0])]):
        stem = _stem_of(name)
        if stem not in ids:
            contents.not_taken[f".{posixpath.basename(name).partition('.')[2]} beside a sample's video"] += 1
            continue
        # `a.mp4` and `a.gif` are two videos of one name.
        key = ids[stem] if name == bests[stem] else name
        caption = _caption(contents, sidecars, ids[stem])
        if isinstance(place, Fault):
            yield SourceVideo(f"{tar_name}/{key}", f"{uri}#{name}", caption.text, place)
        else:
            yield SourceVideo(f"{tar_name}/{key}", str(place), *caption)
    contents.not_taken.update(sidecars.not_taken())


def _caption(contents: _Contents, sidecars: Sidecars, stem: str) -> Caption:
    """Return the first that says something, else what is wrong with the first."""
    captions = [contents.captions[name] for name in sidecars.of(stem)]
    telling = [caption for caption in captions if caption.text]
    return next(iter([*telling, *captions]), None) or Caption("", sidecars.missing(stem))
