"""Videos: what a file's container says, told without decoding more than its first frame."""

import io
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition

from animatediff.data.clips.plan import ResolutionSpan
from animatediff.data.clips.rates import Rate, fit_rate
from animatediff.data.decoding.colours import Colours, read_colours
from animatediff.data.decoding.damage import num_missing, spoiled_packets, without_times_lost
from animatediff.data.decoding.fields import is_interlaced
from animatediff.data.decoding.sizes import (
    HeaderChanges,
    SizeChange,
    check_size,
    decode_packet,
    displayed_size,
    find_size_changes,
    is_mirrored,
)
from animatediff.data.decoding.timeline import Packet, describe, read_timeline
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.limits import MAX_PIXELS
from animatediff.data.supervision.failures import reproducible_reason

_EBML = b"\x1aE\xdf\xa3"
"""What Matroska and WebM begin with."""
# Of elementary streams that say none, as FFmpeg has it.
_USUAL_FPS = 25
# A tag in another character set must not make the file unreadable.
_TOLERANT = {"metadata_errors": "replace"}


@dataclass(frozen=True)
class VideoInfo:
    """What the container says of its video stream; see `find_stream`."""

    pts: np.ndarray
    """(n,) int64 presentation timestamps in the stream's time base, ascending."""
    packet_bytes: np.ndarray
    """(n,) int64 bytes that each frame takes in the file."""
    keyframe_pts: np.ndarray
    """(m,) int64 timestamps at which decoding can start, ascending."""
    origin_pts: int
    """Timestamp of the first frame that the container lists, which is the time 0 though it may not decode."""
    replacement_pts: np.ndarray | None
    """(p,) int64 timestamps to give the packets, in the file's order, before decoding; None where they are right."""
    has_undecodable_start: bool
    """Whether the stream begins with frames that cannot be decoded, for example before its first key frame."""
    has_true_pts: bool
    """Whether frames can be told by their timestamps: AVI stores none, FFmpeg counts packets there."""
    time_base: Fraction
    """Seconds of a timestamp's unit."""
    container: str
    """FFmpeg's name of the format, for example `mov,mp4,m4a,3gp,3g2,mj2`."""
    codec: str
    """FFmpeg's name of the codec, for example `h264`, not of the library that decodes it."""
    stored: tuple[int, int]
    """(width, height) in pixels of a frame as it is decoded."""
    width: int
    """Width in pixels as displayed: upright and square. Never more than the file has."""
    height: int
    """Height in pixels, as displayed."""
    rotation: int
    """Quarter turns, counterclockwise, that put a stored frame upright: 0 to 3."""
    is_mirrored: bool
    """Whether it is turned upside down before."""
    colours: Colours
    """What the pixels mean."""
    is_interlaced: bool
    """Whether frames show two moments in alternate lines."""
    changes: tuple[SizeChange, ...]
    """Where other sizes begin, in the order of their frames."""
    stream: int
    """Index of the video stream among the file's streams."""
    num_video_streams: int
    """Cover pictures count."""
    is_damaged: np.ndarray
    """(n,) bool: frames that are corrupt in the file, or decoded from such; none where `probe` was not to keep any."""

    @cached_property
    def rate(self) -> Rate:
        """The rate of the frames, and their timestamps in seconds from `origin_pts`."""
        return fit_rate((self.pts - self.origin_pts) * float(self.time_base))

    @property
    def timestamps(self) -> np.ndarray:
        """(n,) seconds from the first listed frame's start, without rounding where the rate is constant."""
        return self.rate.timestamps

    @property
    def every_decoder_lists_these_frames(self) -> bool:
        """Whether every decoder lists the frames that are listed here."""
        return self.replacement_pts is None and not self.has_undecodable_start

    @property
    def suits_every_decoder(self) -> bool:
        """Whether a decoder that does no more than FFmpeg's scaler gives the right pictures.

        That is so with one size, sRGB colours, progressive frames that are not mirrored, and timestamps that decoders
        read as they are listed here. A rotation is not looked at: `rotation` says it.
        """
        return (
            self.every_decoder_lists_these_frames
            and self.colours.are_srgb
            and not self.is_interlaced
            and not self.is_mirrored
            and not self.changes
        )

    @property
    def resolution_spans(self) -> tuple[ResolutionSpan, ...]:
        """The stretches of frames of one size, in order."""
        return (
            ResolutionSpan(0, self.width, self.height),
            *(ResolutionSpan(change.first_frame, *change.displayed) for change in self.changes),
        )

    def with_size_of_span(self, index: int) -> "VideoInfo":
        """Return the same facts with the size of the frames of one of `resolution_spans`."""
        if not index:
            return self
        change = self.changes[index - 1]
        return replace(self, stored=change.stored, width=change.displayed[0], height=change.displayed[1])

    @property
    def fps(self) -> float:
        """Frames per second: of the constant rate, or of the median frame; 0 for a single frame."""
        return 1 / self.rate.frame_s if self.rate.frame_s else 0.0

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame's start to the last one's end."""
        return float(self.timestamps[-1] - self.timestamps[0]) + (1 / self.fps if self.fps else 0.0)

    @property
    def decoding_s(self) -> float:
        """Seconds that decoding may take: twice the length, but headers claim years, and decoding goes by frames."""
        return 2 * min(self.duration_s, float(len(self.pts)))


def open_video(data: bytes | BinaryIO) -> Any:
    """Open a video file with PyAV: a container, to be used as a context manager.

    Args:
        data: the file's bytes, or a seekable file, which stays open.

    Raises:
        av.error.FFmpegError: no format is recognised.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    file.seek(0)
    return av.open(file, **_TOLERANT)


def probe(data: bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, keep_damaged: bool = False) -> VideoInfo:
    """Read the container of a video file, and its first frame for the size and the rotation.

    Args:
        data: the file's bytes, or a seekable file, which is read from start to end and stays open.
        max_pixels: of a frame.
        keep_damaged: take a file with corrupt packets as long as one frame is sound; otherwise it is truncated.

    Raises:
        VideoError: the file is empty, no video, too large a picture, has timestamps beyond reckoning, is damaged, or
            ends before the frames that its header promises.
        MemoryError: there is no memory for its header or its first frame.
    """
    container, info, _ = open_and_probe(data, max_pixels=max_pixels, keep_damaged=keep_damaged)
    container.close()
    return info


def open_and_probe(
    data: bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, keep_damaged: bool = False
) -> tuple[Any, VideoInfo, Packet]:
    """Do as `probe`, and return PyAV's container, which is to be closed, what it says, and the stream's first packet.

    Raises:
        VideoError: see `probe`.
        MemoryError: likewise.
    """
    head = _head(data)
    if not head:
        raise VideoError("probe", Reason.EMPTY, "the file has 0 bytes")
    try:
        container = open_video(data)
        try:
            return container, *_read(container, find_stream(container), max_pixels, keep_damaged)
        except BaseException:
            container.close()
            raise
    except MemoryError:  # FFmpeg's is one of its errors too
        raise
    except av.error.FFmpegError as error:
        # An MP4 whose index is missing, or a Matroska that ends among its fonts, cannot be opened; its first bytes say
        # what it was.
        if head[4:8] == b"ftyp" or head.startswith(_EBML):
            detail = f"the header is cut off or damaged: {reproducible_reason(error)}"
            raise VideoError("probe", Reason.TRUNCATED, detail) from error
        raise VideoError("probe", Reason.NOT_VIDEO, reproducible_reason(error)) from error


def _head(data: bytes | BinaryIO) -> bytes:
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    file.seek(0)
    return file.read(8)


def find_stream(container: Any) -> Any:
    """Return the video stream that FFmpeg, as a player, would choose, but no cover picture; for one thread.

    Raises:
        VideoError: there is none, or no decoder for it.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        covers = "but a cover picture" if container.streams.video else "at all"
        raise VideoError("probe", Reason.NO_STREAM, f"the file has no video stream {covers}")
    best = container.streams.best("video")
    stream = min(streams, key=lambda each: best is None or each.index != best.index)
    if stream.codec_context is None:
        raise VideoError("probe", Reason.CODEC_UNSUPPORTED, "no decoder for the video stream's codec")
    stream.codec_context.thread_count = 1
    return stream


def _read(container: Any, stream: Any, max_pixels: int, keep_damaged: bool) -> tuple[VideoInfo, Packet]:
    context = stream.codec_context
    check_size(context.width, context.height, max_pixels)
    tags = Colours(context.colorspace, context.color_primaries, context.color_trc)  # decoding overwrites them
    packets: list[Packet] = []
    first, aspect, begun = None, None, False
    headers, field_order, indexed = HeaderChanges(context), context.field_order, len(stream.index_entries)
    for packet in container.demux(stream):
        begun |= packet.is_keyframe  # MPEG-4 decodes what comes before to rubbish
        if first is None and begun:
            first = next(decode_packet(packet), None)
            aspect = context.sample_aspect_ratio
        if packet.pts is not None or packet.size:  # the last one is empty
            packets.append(describe(packet))
            headers.add(len(packets) - 1, packet)
    if first is not None:
        check_size(first.width, first.height, max_pixels)
    missing = num_missing(packets, container.format.name, promised=stream.frames, indexed=indexed)
    if not packets or missing:
        detail = f"{len(packets)} of the {len(packets) + missing} frames that the header promises are there"
        raise VideoError("probe", Reason.TRUNCATED, detail)
    spoiled = spoiled_packets(packets)
    if spoiled.all() or (spoiled.any() and not keep_damaged):
        raise VideoError("probe", Reason.TRUNCATED, f"{spoiled.sum()} of {len(packets)} frames are damaged in the file")
    packets = without_times_lost(packets, spoiled)
    timeline = read_timeline(packets, first.pts if first is not None else None)
    colours = read_colours(first, tags, context.codec_tag)
    is_timed = all(packet.pts is not None for packet in packets)
    rotation = round(first.rotation / 90) % 4 if first is not None else 0
    stored = (first or context).width, (first or context).height
    width, height = displayed_size(stored, stream.sample_aspect_ratio, rotation)
    interlaced = is_interlaced(first, field_order)
    if interlaced and context.codec.canonical_name == "hevc":
        raise VideoError("probe", Reason.CODEC_UNSUPPORTED, "each picture of this HEVC is a single field")
    changes = find_size_changes(headers, context, (stored, aspect), rotation, timeline)
    for change in changes:
        check_size(*change.stored, max_pixels)
    info = VideoInfo(
        pts=timeline.pts,
        packet_bytes=timeline.packet_bytes,
        keyframe_pts=timeline.keyframe_pts,
        origin_pts=timeline.origin,
        replacement_pts=timeline.packet_pts if timeline.are_pts_replaced and is_timed else None,
        has_undecodable_start=timeline.has_undecodable_start,
        has_true_pts=is_timed and container.format.name != "avi",
        time_base=_time_base(stream) if is_timed else 1 / Fraction(stream.guessed_rate or _USUAL_FPS),
        container=container.format.name,
        codec=context.codec.canonical_name,
        stored=stored,
        width=width,
        height=height,
        rotation=rotation,
        is_mirrored=first is not None and is_mirrored(first),
        colours=colours,
        is_interlaced=interlaced,
        changes=tuple(changes),
        stream=stream.index,
        num_video_streams=len(container.streams.video),
        is_damaged=spoiled[timeline.packets],
    )
    return info, packets[0]


def _time_base(stream: Any) -> Fraction:
    if not stream.time_base or stream.time_base < 0:
        raise VideoError("probe", Reason.BAD_TIMESTAMPS, f"the time base {stream.time_base} is no duration")
    return Fraction(stream.time_base)
