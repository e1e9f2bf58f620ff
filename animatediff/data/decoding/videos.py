"""Videos: what a file's container says, told without decoding more than its first frame."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from animatediff.data.quarantine import Reason, VideoError

MAX_PIXELS = 8192 * 8192
"""Most pixels of a source frame, where a config does not say."""

# A tag in another character set must not make the file unreadable.
_TOLERANT = {"metadata_errors": "replace"}


@dataclass(frozen=True)
class VideoInfo:
    """What the container says of its first video stream that is no cover picture."""

    pts: np.ndarray
    """(n,) int64 presentation timestamps in the stream's time base, ascending."""
    packet_bytes: np.ndarray
    """(n,) int64 bytes that each frame takes in the file."""
    keyframe_pts: np.ndarray
    """(m,) int64 timestamps at which decoding can start, ascending."""
    time_base_s: float
    container: str
    """FFmpeg's name of the format, for example `mov,mp4,m4a,3gp,3g2,mj2`."""
    codec: str
    """FFmpeg's name of the codec, for example `h264`, not of the library that decodes it."""
    width: int
    """Pixels as displayed: upright and square. Never more than the file has."""
    height: int
    """Pixels, likewise."""
    rotation: int
    """Quarter turns, counterclockwise, that put a stored frame upright: 0 to 3."""
    stream: int
    """Index among the file's streams."""
    num_video_streams: int
    """Cover pictures count."""

    @cached_property
    def timestamps(self) -> np.ndarray:
        """(n,) seconds from the first frame's start."""
        return (self.pts - self.pts[0]) * self.time_base_s

    @property
    def has_true_pts(self) -> bool:
        """Whether frames can be told by their timestamps: AVI stores none, FFmpeg counts packets there."""
        return self.container != "avi"

    @property
    def fps(self) -> float:
        """Frames per second of the median frame; 0 for a single frame."""
        return float(1 / np.median(np.diff(self.timestamps))) if len(self.pts) > 1 else 0.0

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame's start to the last one's end."""
        return float(self.timestamps[-1]) + (1 / self.fps if self.fps else 0.0)


def open_video(data: bytes) -> Any:
    """Open a video file in memory with PyAV: a container, to be used as a context manager.

    Raises:
        av.error.FFmpegError: no format is recognised.
    """
    return av.open(io.BytesIO(data), **_TOLERANT)


def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Read the container of a video file, and its first frame for the size and the rotation.

    Args:
        data: the file.
        max_pixels: of a frame.

    Raises:
        VideoError: the file is empty, no video, too large a picture, or ends before the frames that its header
            promises.
        MemoryError: there is no memory for its header or its first frame.
    """
    if not data:
        raise VideoError("probe", Reason.EMPTY, "the file has 0 bytes")
    try:
        with open_video(data) as container:
            return _read(container, _find_stream(container), max_pixels)
    except MemoryError:  # FFmpeg's is one of its errors too
        raise
    except av.error.FFmpegError as error:
        # An MP4 whose index is missing cannot be opened; its first box still says what it was.
        reason = Reason.TRUNCATED if data[4:8] == b"ftyp" else Reason.NOT_VIDEO
        raise VideoError("probe", reason, one_line(error)) from error


def _find_stream(container: Any) -> Any:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        covers = "but a cover picture" if container.streams.video else "at all"
        raise VideoError("probe", Reason.NO_STREAM, f"the file has no video stream {covers}")
    if streams[0].codec_context is None:
        raise VideoError("probe", Reason.CODEC_UNSUPPORTED, "no decoder for the video stream's codec")
    streams[0].codec_context.thread_count = 1
    return streams[0]


def _read(container: Any, stream: Any, max_pixels: int) -> VideoInfo:
    context = stream.codec_context
    _check_size(context.width, context.height, max_pixels)
    packets, first = [], None
    for packet in container.demux(stream):
        if first is None:
            first = next(_decode(packet), None)
        if packet.pts is not None:
            packets.append(packet)
    if first is not None:
        _check_size(first.width, first.height, max_pixels)
    pts, packet_bytes = _read_timeline(stream, packets)
    rotation = round(first.rotation / 90) % 4 if first is not None else 0
    width, height = _displayed(first or context, stream.sample_aspect_ratio, rotation)
    return VideoInfo(
        pts,
        packet_bytes,
        np.array(sorted(p.pts for p in packets if p.is_keyframe), dtype=np.int64),
        float(stream.time_base),
        container.format.name,
        context.codec.canonical_name,
        width,
        height,
        rotation,
        stream.index,
        len(container.streams.video),
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        detail = f"a frame of {width}x{height} has more than {max_pixels} pixels (decode.max_pixels)"
        raise VideoError("probe", Reason.TOO_LARGE, detail)
    if not width * height:
        detail = "the picture's size is missing, or larger than FFmpeg takes (2^28 pixels)"
        raise VideoError("probe", Reason.DECODE_ERROR, detail)


def _decode(packet: Any) -> Iterator[Any]:
    try:
        yield from packet.decode()
    except MemoryError:
        raise
    except av.error.FFmpegError:
        return  # the packets still tell truncated files; whether the frames can be had is seen when they are wanted


def _read_timeline(stream: Any, packets: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    if not packets or len(packets) < stream.frames or any(p.is_corrupt for p in packets):
        detail = f"{len(packets)} of the {stream.frames} frames that the header promises are there"
        raise VideoError("probe", Reason.TRUNCATED, detail)
    shown = [p for p in packets if not p.is_discard]
    pts, where = np.unique(np.array([p.pts for p in shown], dtype=np.int64), return_index=True)
    if len(pts) < len(shown) or not len(pts):
        raise VideoError("probe", Reason.DECODE_ERROR, "several frames share a timestamp, or none is to be shown")
    return pts, np.array([p.size for p in shown], dtype=np.int64)[where]


def _displayed(frame: Any, aspect: Fraction | None, rotation: int) -> tuple[int, int]:
    """(width, height) with square pixels, by shrinking the side that has too many, and upright."""
    aspect = aspect or Fraction(1)
    width, height = round(frame.width * min(aspect, 1)), round(frame.height / max(aspect, 1))
    width, height = max(1, width), max(1, height)
    return (height, width) if rotation % 2 else (width, height)


def one_line(error: BaseException | str) -> str:
    """The first line of an error's text, without the clock times and addresses that differ from run to run."""
    text = str(getattr(error, "strerror", "") or error).strip()
    text = re.sub(r"\[\d\d:\d\d:\d\d\] ?| @ 0x[0-9a-f]+", "", text)
    return text.splitlines()[0][:200] if text else type(error).__name__
