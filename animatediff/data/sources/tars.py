"""Webdataset tars: samples are files of one name, told apart by what follows its first dot."""

import logging
import posixpath
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from animatediff.data.sources.files import no_ranges, opened, told
from animatediff.data.sources.folder import caption_in, sidecar_suffixes
from animatediff.data.sources.spec import VIDEO_SUFFIXES, Columns, SourceVideo
from animatediff.data.sources.uris import TarMember, describe
from animatediff.errors import UserError
from animatediff.uris import printable_uri

logger = logging.getLogger(__name__)

# Headers of remote tars are read one round trip after the other, so several tars are read side by side.
_TARS_AT_ONCE = 16
# The captions beside a video come with its header in one read.
_BLOCK_BYTES = 64 << 10
_MAX_CAPTION_BYTES = 1_000_000


@dataclass
class _Sample:
    video: TarMember | None = None
    video_suffix: str = ""
    captions: dict[str, str] = field(default_factory=dict)
    """By suffix."""


def read_tars(uris: Sequence[str], root: str, columns: Columns) -> Iterator[SourceVideo]:
    """The videos of tars. Only headers and captions are read.

    A tar that is damaged gives the videos before the damage, then one without an id, whose URI names the place.

    Args:
        uris: the tars, not compressed.
        root: the folder that ids name them from: an id is the tar's relative path, `/`, the sample's name.
        columns: `caption` is the key in `.json` members, and where it is set they come before `.txt`.

    Raises:
        UserError: a tar is missing or compressed, or its server serves no byte ranges.
    """
    pool = ThreadPoolExecutor(_TARS_AT_ONCE, thread_name_prefix="tars")
    ahead: deque[Future[list[SourceVideo]]] = deque()
    try:
        for uri in uris:
            ahead.append(pool.submit(_read_tar, uri, _tar_name(uri, root), columns))
            if len(ahead) >= _TARS_AT_ONCE:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _tar_name(uri: str, root: str) -> str:
    name = printable_uri(uri).removeprefix(printable_uri(root)).lstrip("/")
    return name.partition("?")[0].removesuffix(".tar")


def _read_tar(uri: str, name: str, columns: Columns) -> list[SourceVideo]:
    samples: dict[str, _Sample] = {}
    damage = []
    with opened(uri, block_size=_BLOCK_BYTES) as file, told(uri):
        _check(file, uri)
        size = file.seek(0, 2)
        file.seek(0)
        try:
            for member, content in _walk(file, size):
                _add(samples, member, content, uri, columns)
        except (tarfile.TarError, EOFError) as error:
            logger.warning("%s is damaged, what follows is not read: %s", printable_uri(uri), describe(error))
            damage.append(SourceVideo("", f"{uri}#offset={file.tell()}", ""))
        except ValueError as error:  # fsspec's, where the server answered with the whole file
            raise no_ranges(uri) from error
    return [*_videos(samples, name, columns), *damage]


def _check(file: Any, uri: str) -> None:
    if not file.seekable():
        raise no_ranges(uri)
    if file.read(3) in (b"\x1f\x8b\x08", b"BZh", b"\xfd7z", b"\x28\xb5\x2f"):
        raise UserError(
            f"{printable_uri(uri)} is compressed, so nothing in it can be read alone: store it as plain tar"
        )


def _walk(file: Any, size: int) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The regular files of a tar, with the content of those that may be captions.

    Raises:
        tarfile.TarError: a header is damaged, or the tar ends inside a member.
    """
    with tarfile.open(fileobj=file, mode="r:", errors="replace") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory
            if member.offset_data + member.size > size:
                raise tarfile.ReadError(f"it ends inside {member.name}")
            if member.isreg() and not member.issparse():
                is_caption = member.name.endswith((".txt", ".json")) and member.size <= _MAX_CAPTION_BYTES
                content = tar.extractfile(member) if is_caption else None
                yield member, content.read() if content else b""
        # tarfile takes a damaged header for the end.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")


def _add(samples: dict[str, _Sample], member: tarfile.TarInfo, content: bytes, uri: str, columns: Columns) -> None:
    folder, base = posixpath.split(member.name.removeprefix("./"))
    stem, dot, suffix = base.partition(".")
    if not stem or not dot:
        return
    sample = samples.setdefault(posixpath.join(folder, stem), _Sample())
    if content:
        sample.captions[f".{suffix}"] = caption_in(content, f".{suffix}", columns)
    # `a.mp4` is the video and `a.depth.mp4` goes with it, whichever comes first.
    elif base.lower().endswith(VIDEO_SUFFIXES) and (sample.video is None or len(suffix) < len(sample.video_suffix)):
        sample.video, sample.video_suffix = TarMember(uri, member.offset_data, member.size), suffix


def _videos(samples: dict[str, _Sample], name: str, columns: Columns) -> Iterator[SourceVideo]:
    for key, sample in samples.items():
        if sample.video is not None:
            captions = [sample.captions.get(suffix, "") for suffix in sidecar_suffixes(columns)]
            yield SourceVideo(f"{name}/{key}", str(sample.video), next(filter(None, captions), ""))
