"""Sizes: where in a video the picture's size changes, told without decoding it.

Only a few key frames are decoded: those whose sequence header differs from the one before.
"""

import contextlib
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np

from animatediff.data.decoding.timeline import Timeline
from animatediff.data.quarantine import Reason, VideoError

_MPEG_HEADER = {
    "mpeg1video": (re.compile(rb"\x00\x00\x01\xb3"), 4),  # width, height, aspect ratio, rate
    "mpeg2video": (re.compile(rb"\x00\x00\x01\xb3"), 4),
    "mpeg4": (re.compile(rb"\x00\x00\x01[\x20-\x2f]"), 16),
    "vp8": (re.compile(rb"\x9d\x01\x2a"), 4),  # width, height
    "vp9": (re.compile(rb"\x49\x83\x42"), 6),
}
_SPS = {"h264": (0x1F, 0, 7), "hevc": (0x3F, 1, 33)}
_START = re.compile(rb"\x00\x00\x01")
_AV1_SEQUENCE = 1
_KNOWN = (*_MPEG_HEADER, *_SPS, "av1")
_LONGEST_SEARCH = 4096
"""Bytes from a packet's start within which a header is sought."""


class SizeChange(NamedTuple):
    """Another size that begins within a video."""

    first_frame: int
    """Index of the first frame that has it, in the order of presentation."""
    stored: tuple[int, int]
    """(width, height) in pixels of a frame as it is decoded."""
    displayed: tuple[int, int]
    """(width, height) upright and with square pixels."""


def sequence_header(codec: str, data: bytes, extradata: bytes | None) -> bytes:
    """Return the part of a key frame's packet that tells the picture's size; empty where it tells none.

    Args:
        codec: FFmpeg's name.
        data: the packet.
        extradata: the stream's, which tells how its units are delimited.
    """
    if codec in _MPEG_HEADER:
        pattern, length = _MPEG_HEADER[codec]
        found = pattern.search(data, 0, _LONGEST_SEARCH)
        return data[found.end() : found.end() + length] if found else b""
    if codec in _SPS:
        mask, shift, kind = _SPS[codec]
        lengths = _length_bytes(codec, extradata)
        units = _prefixed(data, lengths) if lengths else _delimited(data)
        return b"".join(unit for unit in units if unit and (unit[0] >> shift) & mask == kind)
    if codec == "av1":
        return b"".join(_av1_sequences(data))
    return b""


def _length_bytes(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length in front of each unit (ISO/IEC 14496-15); 0 for start codes (Annex B)."""
    place = 4 if codec == "h264" else 21
    if not extradata or extradata[0] != 1 or len(extradata) <= place:
        return 0
    return (extradata[place] & 3) + 1


def _prefixed(data: bytes, lengths: int) -> Iterator[bytes]:
    at = 0
    while at + lengths < len(data):
        end = at + lengths + int.from_bytes(data[at : at + lengths])
        yield data[at + lengths : end]
        at = end


def _delimited(data: bytes) -> Iterator[bytes]:
    starts = [found.end() for found in _START.finditer(data, 0, _LONGEST_SEARCH)]
    for start, end in zip(starts, [*(s - 3 for s in starts[1:]), len(data)], strict=True):
        yield data[start:end].rstrip(b"\0")


def _av1_sequences(data: bytes) -> Iterator[bytes]:
    """Sequence headers among the open bitstream units, which carry their sizes (AV1, section 5.3)."""
    at = 0
    while at < len(data):
        kind, has_extension, has_size = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + has_extension
        if not has_size:
            return
        size, shift = 0, 0
        while at < len(data):
            size |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if not data[at - 1] & 128:
                break
        if kind == _AV1_SEQUENCE:
            yield data[at : at + size]
        at += size


class HeaderChanges:
    """The key frames of a stream at which its sequence header changes.

    Args:
        context: PyAV's of the stream.
    """

    def __init__(self, context: Any) -> None:
        self._codec, self._extradata = context.codec.canonical_name, context.extradata
        self._last: bytes | None = None
        self.packets: list[tuple[int, Any]] = []
        """Number in the file, and packet."""

    def add(self, number: int, packet: Any) -> None:
        """Look at the next packet."""
        if not packet.is_keyframe:
            return
        header = bytes(packet.get_sidedata("new_extradata")) if packet.has_sidedata("new_extradata") else b""
        header += sequence_header(self._codec, bytes(packet), self._extradata) if self._codec in _KNOWN else b""
        if header and self._last is not None and header != self._last:
            self.packets.append((number, packet))
        self._last = header or self._last or b""


def find_size_changes(
    headers: HeaderChanges,
    context: Any,
    size: tuple[tuple[int, int], Fraction | None],
    rotation: int,
    timeline: Timeline,
) -> list[SizeChange]:
    """Return the sizes that begin at the key frames whose headers change.

    Args:
        headers: the packets of these key frames.
        context: of the stream's codec.
        size: of the first frame, as stored, and the aspect of its pixels.
        rotation: of all frames, in quarter turns.
        timeline: which frame each packet is.
    """
    changes: list[SizeChange] = []
    for packet_index, packet in headers.packets:
        new_size = _size_from(packet, context)
        if new_size is not None and new_size != size:
            size = new_size
            first_frame = int(np.searchsorted(timeline.pts, timeline.packet_pts[packet_index]))
            changes.append(SizeChange(first_frame, size[0], displayed_size(*size, rotation)))
    return changes


def _size_from(packet: Any, context: Any) -> tuple[tuple[int, int], Fraction | None] | None:
    """Return the size as stored and aspect of the pixels in a key frame; None where it does not decode by itself."""
    context.flush_buffers()
    frames = list(decode_packet(packet))
    with contextlib.suppress(av.error.FFmpegError):
        frames += context.decode(None)
    return ((frames[0].width, frames[0].height), context.sample_aspect_ratio) if frames else None


def displayed_size(stored: tuple[int, int], aspect: Fraction | None, rotation: int) -> tuple[int, int]:
    """Return (width, height) with square pixels, by shrinking the side that has too many, and upright."""
    square = Fraction(1)
    aspect = aspect or square
    width, height = round(stored[0] * min(aspect, square)), round(stored[1] / max(aspect, square))
    width, height = max(1, width), max(1, height)
    return (height, width) if rotation % 2 else (width, height)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse pictures of more than `max_pixels`, and of none.

    Raises:
        VideoError: they are.
    """
    if width * height > max_pixels:
        detail = f"a frame of {width}x{height} has more than {max_pixels} pixels (decode.max_pixels)"
        raise VideoError("probe", Reason.TOO_LARGE, detail)
    if not width * height:
        detail = "the picture's size is missing, or larger than FFmpeg takes (2^28 pixels)"
        raise VideoError("probe", Reason.DECODE_ERROR, detail)


def is_mirrored(frame: Any) -> bool:
    """Return whether a frame is turned upside down before it is rotated, as its display matrix says.

    `frame.rotation` is the angle of the matrix's first column; a mirror is where the second one lies clockwise of it.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    return bool(a * d < b * c)


def decode_packet(packet: Any) -> Iterator[Any]:
    """Yield the frames that a packet gives; none where it cannot be decoded."""
    try:
        yield from packet.decode()
    except MemoryError:
        raise
    except av.error.FFmpegError:
        return  # the packets still tell truncated files; whether the frames can be had is seen when they are wanted
