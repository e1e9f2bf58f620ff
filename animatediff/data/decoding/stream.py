"""All frames of a video in their order, decoded once."""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from animatediff.data.decoding.fields import progressive
from animatediff.data.decoding.sizes import decode_packet
from animatediff.data.decoding.videos import VideoInfo, open_video


def stream_frames(data: bytes | BinaryIO, info: VideoInfo) -> Iterator[tuple[int, Any]]:
    """Yield each frame that decodes, as PyAV has it, after its number among those that `info` lists.

    Frames that do not decode are left out, so that numbers may be missing, also at the end.

    Args:
        data: the file's bytes, or a seekable file.
        info: what `probe` says of it.
    """
    with open_video(data) as container:
        stream = container.streams[info.stream]
        stream.codec_context.thread_count = 1
        last = -1
        packets = from_first_keyframe(container.demux(stream), info)
        for count, frame in enumerate(progressive(_decode(packets))):
            number = _number(frame, count, info)
            if number is not None and number > last:
                last = number
                yield number, frame


def from_first_keyframe(packets: Iterable[Any], info: VideoInfo) -> Iterator[Any]:
    """Yield the packets that decode, by the timestamps of `info`."""
    begun = not len(info.keyframe_pts)
    for number, packet in enumerate(packets):
        if info.replacement_pts is not None and packet.pts is not None:
            packet.pts = int(info.replacement_pts[number])
        begun |= packet.is_keyframe
        if begun:
            yield packet


def _decode(packets: Iterable[Any]) -> Iterator[Any]:
    for packet in packets:
        yield from decode_packet(packet)


def _number(frame: Any, count: int, info: VideoInfo) -> int | None:
    """Return a frame's number by its timestamp, or where there are none, among the decoded ones."""
    if not info.has_true_pts:
        return count if count < len(info.pts) else None
    if frame.pts is None:
        return None
    number = int(np.searchsorted(info.pts, frame.pts))
    return number if number < len(info.pts) and info.pts[number] == frame.pts else None
