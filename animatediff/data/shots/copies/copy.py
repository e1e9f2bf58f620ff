"""One shot of a video as a file of its own: its packets as they are, or, where they do not serve, without loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import av
import numpy as np

from animatediff.data.decoding.videos import find_stream, open_video, probe
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.lossless import encode_lossless
from animatediff.data.shots.copies.mp4 import mux
from animatediff.data.shots.copies.packets import ShotPackets, read_shot_packets
from animatediff.data.supervision.failures import reproducible_reason

_MAX_PREROLL = 2000
"""Frames between the key frame and the shot. Where there are more, the file is one key frame and what follows it."""
_CONTAINERS = ("mp4", "mov")
"""MP4 has more players, MOV more codecs (ProRes). Both can hide what lies around a shot."""


def copy_shot(file: BinaryIO, *, start_pts: int, last_pts: int, num_frames: int | None = None) -> bytes:
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

    Raises:
        VideoError: no such frames, or as many, can be had from the video; or what `file` raises.
        MemoryError: there is no memory for its packets.
    """
    with _errors_named():
        copy = _copy_packets(file, start_pts, last_pts) or encode_lossless(file, start_pts, last_pts)
        found = len(probe(copy).pts)
    if num_frames not in (None, found):
        detail = f"{found} frames are shown from {start_pts} to {last_pts}, and {num_frames} are expected"
        raise VideoError("decode", Reason.DECODE_ERROR, detail)
    return copy


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except MemoryError:  # FFmpeg's is one of its errors too
        raise
    except av.error.FFmpegError as error:
        raise VideoError("decode", Reason.DECODE_ERROR, f"the shot: {reproducible_reason(error)}") from error


def _copy_packets(file: BinaryIO, start_pts: int, last_pts: int) -> bytes | None:
    """Return the packets of the shot in a file whose frames are those of the shot; None where there is none such."""
    for packets in read_shot_packets(file, start_pts, last_pts):
        if packets.num_before > _MAX_PREROLL:
            return None
        for container in _CONTAINERS:
            copy = mux(packets, container)
            if copy is not None and _shows(copy, packets):
                return copy
    return None


def _shows(copy: bytes, packets: ShotPackets) -> bool:
    """Whether a copy lists the shot's frames, and its first one decodes at its time."""
    try:
        info = probe(copy)
    except VideoError:
        return False
    if not np.array_equal(info.pts, packets.shown_ticks) or info.has_undecodable_start:
        return False
    with open_video(copy) as container:
        stream = find_stream(container)
        try:
            for packet in container.demux(stream):
                for frame in packet.decode():
                    if frame.pts is not None and frame.pts >= 0:
                        return frame.pts == 0 and not frame.is_corrupt
        except av.error.FFmpegError:
            return False
    return False
