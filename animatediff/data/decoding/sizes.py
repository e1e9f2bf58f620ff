"""Sizes: where in a video the picture's size changes, told without decoding it.

Only a few key frames are decoded: those whose sequence header differs from the one before.
"""

import re
from collections.abc import Iterator
from typing import Any

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
