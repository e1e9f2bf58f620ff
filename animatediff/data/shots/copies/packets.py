"""The packets of a shot: from a key frame before it to the last one that its frames need."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, BinaryIO

import av
import numpy as np

from animatediff.data.decoding.videos import find_stream, open_video

SEEKS_S: tuple[float | None, ...] = (0.0, 5.0, 60.0, None)
"""How long before a shot reading begins, one after the other; None is the file's start."""
_MPEG4_PICTURE = b"\0\0\1\xb6"
"""What begins a picture. DivX packs two into one packet, which MP4 cannot."""
_KEPT_KEYS = 3
_MOST_REORDERED = 32
"""Frames that a codec stores ahead of one that is shown before them; of H.264 and HEVC 16."""


@dataclass(frozen=True)
class ShotPackets:
    """The packets of a shot and of the frames before it that they refer to."""

    stream: Any
    """PyAV's, of the source."""
    packets: list[Any]
    """In the file's order: the first is a key frame's."""
    start_pts: int
    last_pts: int

    @property
    def time_base(self) -> Fraction:
        """Seconds of a timestamp's unit."""
        return Fraction(self.stream.time_base)

    @property
    def ticks_per_s(self) -> int:
        """Of the copy: a timestamp of the source is `time_base.numerator` of its ticks."""
        return self.time_base.denominator

    def ticks(self, pts: int) -> int:
        """Return a timestamp of the source as one of the copy, where the shot's first is 0."""
        return (pts - self.start_pts) * self.time_base.numerator

    @cached_property
    def shown_ticks(self) -> np.ndarray:
        """(n,) ascending timestamps of the shot's frames in the copy."""
        return np.sort([self.ticks(p.pts) for p in self.packets if self.start_pts <= p.pts <= self.last_pts])

    @property
    def end_ticks(self) -> int:
        """When the copy ends: its last frame is shown, and none of those behind that it or others refer to."""
        last = next(packet for packet in self.packets if packet.pts == self.last_pts)
        behind = [self.ticks(packet.pts) for packet in self.packets if packet.pts > self.last_pts]
        length = max(1, (last.duration or 0) * self.time_base.numerator)
        return min([self.ticks(self.last_pts) + length, *behind])

    @property
    def num_before(self) -> int:
        """Frames that are shown before the shot."""
        return sum(p.pts < self.start_pts for p in self.packets)


def read_shot_packets(file: BinaryIO, start_pts: int, last_pts: int) -> Iterator[ShotPackets]:
    """Yield the packets of a shot, from the key frame before it on; then from earlier ones, if it is no good.

    Nothing is yielded where packets alone do not tell the shot: without timestamps, with two frames of one time, with
    frames that the source hides, or with another size or coding within it.
    """
    tried: set[int] = set()
    for seek_s in SEEKS_S:
        with open_before(file, start_pts, seek_s) as (container, stream):
            if tells_order_alone(container, stream):
                return
            packets, keys = _around(container.demux(stream), start_pts, last_pts)
            for key in reversed(keys):
                found = ShotPackets(stream, packets[key:], start_pts, last_pts)
                if found.packets[0].pts not in tried and _is_told(found):
                    tried.add(found.packets[0].pts)
                    yield found


@contextmanager
def open_before(file: BinaryIO, pts: int, seek_s: float | None) -> Iterator[tuple[Any, Any]]:
    """Open a video at `seek_s` seconds before a timestamp or, as it may be, earlier; None: at its start.

    Gives PyAV's container and its video stream.
    """
    file.seek(0)
    with open_video(file) as container:
        stream = find_stream(container)
        is_there = seek_s is None or _seek(container, stream, pts - int(seek_s / (stream.time_base or 1)))
        if is_there:
            yield container, stream
            return
    with open_before(file, pts, None) as opened:
        yield opened


def tells_order_alone(container: Any, stream: Any) -> bool:
    """Whether packets bear no times of showing: AVI has none. FFmpeg reckons those of MPEG-4, and not of H.264."""
    return container.format.name == "avi" and stream.codec_context.codec.canonical_name in ("h264", "hevc")


def _seek(container: Any, stream: Any, pts: int) -> bool:
    try:
        container.seek(pts, stream=stream, backward=True)
    except av.error.FFmpegError:  # there is nothing before, or no index
        return False
    return True


def _around(packets: Iterable[Any], start_pts: int, last_pts: int) -> tuple[list[Any], list[int]]:
    """Return packets up to the shot's last, and which of them are the key frames before it, in order.

    Of those before the shot, only what follows its last few key frames; none where one has no timestamp.
    """
    found: list[Any] = []
    keys: list[int] = []
    num_behind = 0
    for packet in packets:
        if packet.pts is None:
            if packet.size:
                return [], []
            continue  # the end
        if packet.is_keyframe and packet.pts <= start_pts:
            keys.append(len(found))
            if len(keys) > _KEPT_KEYS:
                del found[: keys[1]]
                keys = [key - keys[1] for key in keys[1:]]
        found.append(packet)
        num_behind += packet.pts > last_pts
        if num_behind > _MOST_REORDERED:
            break
    inside = [i for i, packet in enumerate(found) if start_pts <= packet.pts <= last_pts]
    return (found[: inside[-1] + 1], [key for key in keys if key <= inside[-1]]) if inside else ([], [])


def _is_told(shot: ShotPackets) -> bool:
    pts = [packet.pts for packet in shot.packets]
    is_mpeg4 = shot.stream.codec_context.codec.canonical_name == "mpeg4"
    is_packed = is_mpeg4 and any(bytes(packet).count(_MPEG4_PICTURE) > 1 for packet in shot.packets)
    return (
        not is_packed
        and len(set(pts)) == len(pts)
        and {shot.start_pts, shot.last_pts} <= set(pts)
        and not any(p.is_corrupt or p.has_sidedata("new_extradata") for p in shot.packets)
        and not any(p.is_discard and shot.start_pts <= p.pts <= shot.last_pts for p in shot.packets)
    )
