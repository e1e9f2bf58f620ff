"""Packets to an MP4 that shows some of them: an edit list hides those before and behind."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from animatediff.data.decoding.colours import UNSPECIFIED, Colours
from animatediff.data.shots.copies.packets import ShotPackets

_FULL_RANGE = 2


def mux(shot: ShotPackets, container: str) -> bytes | None:
    """Return the packets in a file whose time 0 is the shot's first frame, and which ends with its last.

    Args:
        shot: what is to be shown, and what it refers to.
        container: `mp4` or `mov`.

    Returns:
        The file; None where the container cannot hold the codec.
    """
    buffer = io.BytesIO()
    # Edit lists count in the movie's ticks: in the track's, nothing is rounded.
    ticks = str(shot.ticks_per_s)
    options = {"video_track_timescale": ticks, "movie_timescale": ticks, "use_editlist": "1"}
    try:
        with av.open(buffer, "w", format=container, options=options) as output:
            stream = _add_stream(output, shot.stream)
            for packet in _retimed(shot):
                packet.stream = stream
                output.mux(packet)
    except (ValueError, av.error.FFmpegError) as error:
        if isinstance(error, MemoryError):
            raise
        return None
    return _ending_at(buffer.getvalue(), shot.end_ticks)


def _add_stream(output: Any, source: Any) -> Any:
    """Return a stream of the same codec, size, colours and rotation."""
    stream = output.add_stream_from_template(source, opaque=True)
    context = stream.codec_context
    tags = Colours(context.colorspace, context.color_primaries, context.color_trc)
    if context.color_range == _FULL_RANGE or any(tag != UNSPECIFIED for tag in tags):
        context.colorspace, context.color_primaries, context.color_trc = tags.in_full
    if source.sample_aspect_ratio:  # the container's word, which the codec's may not be
        context.sample_aspect_ratio = source.sample_aspect_ratio
    return stream


def _retimed(shot: ShotPackets) -> Iterator[Any]:
    """Yield copies of the packets, at their times in the copy.

    Each is decoded at the time of the frame of its rank, and all so much earlier that none is shown before: some
    containers do not tell when, and what was cut away counts no more.
    """
    pts = np.array([shot.ticks(packet.pts) for packet in shot.packets])
    dts = np.sort(pts)
    dts -= max(0, int((dts - pts).max()))
    for packet, shown, decoded in zip(shot.packets, pts.tolist(), dts.tolist(), strict=True):
        copy = av.Packet(bytes(packet))
        copy.pts, copy.dts, copy.time_base = shown, decoded, Fraction(1, shot.ticks_per_s)
        copy.duration = (packet.duration or 0) * shot.time_base.numerator
        # What precedes the shot begins with the first packet: players look no further back than to a key frame.
        copy.is_keyframe = packet.is_keyframe and (packet is shot.packets[0] or packet.pts > shot.start_pts)
        yield copy


def _ending_at(mp4: bytes, end: int) -> bytes:
    """Return the file with an edit list that ends `end` ticks after time 0."""
    for start in _find(mp4, 0, len(mp4), (b"moov", b"trak", b"edts", b"elst")):
        version, num_edits = mp4[start + 8], int.from_bytes(mp4[start + 12 : start + 16])
        length, form = (20, ">Q") if version else (12, ">I")
        at = start + 16 + length * (num_edits - 1)
        return mp4[:at] + struct.pack(form, end) + mp4[at + struct.calcsize(form) :]
    return mp4


def _find(data: bytes, start: int, end: int, path: tuple[bytes, ...]) -> Iterator[int]:
    """Yield where the boxes of a path begin (ISO/IEC 14496-12)."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        if size < header:
            return
        if kind == path[0]:
            if len(path) == 1:
                yield start
            else:
                yield from _find(data, start + header, start + size, path[1:])
        start += size
