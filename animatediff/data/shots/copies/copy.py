"""One shot of a video as a file of its own: its packets as they are, or, where they do not serve, without loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import numpy as np

from animatediff.data.decoding.videos import probe
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.lossless import encode_lossless
from animatediff.data.shots.copies.mp4 import mux
from animatediff.data.shots.copies.packets import ShotPackets, read_shot_packets
from animatediff.data.supervision.failures import reproducible_reason

_MAX_PREROLL = 2000
"""Frames between the key frame and the shot. Where there are more, the file is one key frame and what follows it."""
_CONTAINERS = ("mp4", "mov")
"""MP4 has more players, MOV more codecs (ProRes). Both can hide what lies around a shot."""


def copy_shot(
    file: BinaryIO,
    *,
    start_pts: int,
    last_pts: int,
    num_frames: int | None = None,
    on_encode: Callable[[float], None] = lambda length_s: None,
) -> bytes:
    """Return a shot as an MP4 whose frame k, by `probe` and the decoders, is frame start + k of the video.

    It holds the video stream alone: packets as the source has them, from the key frame before the shot on, and an edit
    list that hides those around it; rotation, aspect of the pixels and colours as the source tells them. Its timestamps
    are the source's, less the first one. Where packets do not give these frames (MP4 and MOV cannot hold the codec,
    there are no timestamps, what is called a key frame is none, thousands of frames lie before the shot), the frames
    are encoded anew by FFV1, without loss, in several times the bytes. What is returned was looked at: the number of
    its frames, their timestamps, and that the first one decodes.

    Args:
        file: the video, to seek in; of an hour-long one, the part around the shot is read.
        start_pts: timestamp of the shot's first frame, as the container has it, or, where the container has none, its
            number among the frames that decode.
        last_pts: timestamp of its last frame.
        num_frames: how many it has, where the caller knows it.
        on_encode: told the video's seconds, all of which may have to be decoded, before frames are encoded anew.

    Raises:
        VideoError: no such frames, or as many, can be had from the video; or what `file` raises.
        MemoryError: there is no memory for its packets.
    """
    with _errors_named():
        copy = _copy_packets(file, start_pts, last_pts) or encode_lossless(
            file, start_pts, last_pts, on_encode=on_encode
        )
    if num_frames is not None and num_frames != (found := len(_shown_pts(copy))):
        detail = f"{found} frames are shown from {start_pts} to {last_pts}, and {num_frames} are expected"
        raise VideoError("decode", Reason.DECODE_ERROR, detail)
    return copy


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except MemoryError:  # FFmpeg's is one of its errors too
        raise
    # PyAV's is an IndexError where a stream turns up in the middle of a file, as in damaged recordings.
    except (av.error.FFmpegError, IndexError) as error:
        raise VideoError("decode", Reason.DECODE_ERROR, f"the shot: {reproducible_reason(error)}") from error


def _copy_packets(file: BinaryIO, start_pts: int, last_pts: int) -> bytes | None:
    """Return the packets of the shot in a file whose frames are those of the shot; None where there is none such."""
    for shot in read_shot_packets(file, start_pts, last_pts):
        if shot.num_before > _MAX_PREROLL:
            return None
        if not _decodes(shot):
            continue
        for container in _CONTAINERS:
            copy = mux(shot, container)
            if copy is not None and np.array_equal(_shown_pts(copy), shot.shown_ticks):
                return copy
    return None


def _decodes(shot: ShotPackets) -> bool:
    """Whether its first packet is a key frame's indeed, by the first frame that comes out.

    What H.264 refreshes by and by has no key frame, and comes out once it is whole.
    """
    context = shot.stream.codec_context
    if context.is_open:
        context.flush_buffers()
    try:
        first = next((frame for packet in shot.packets for frame in packet.decode()), None)
        # Frames that are on their way still; where a shot has few, all are.
        first = first or next(iter(context.decode(None)), None)
    except av.error.InvalidDataError:
        return False
    if first is None or first.pts is None or first.is_corrupt:
        return False
    is_whole = first.key_frame or context.codec.canonical_name == "h264"
    return bool(is_whole and first.pts <= shot.start_pts)


def _shown_pts(copy: bytes) -> np.ndarray:
    """(n,) timestamps of the frames that `probe` lists; none where it lists none, or not the first."""
    try:
        info = probe(copy)
    except VideoError:
        return np.empty(0)
    return np.empty(0) if info.has_undecodable_start else info.pts
