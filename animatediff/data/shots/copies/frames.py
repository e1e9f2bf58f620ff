"""Frames of a shot, as whoever writes its caption looks at them."""

from typing import NamedTuple

import numpy as np

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.frames import FrameSelection, read_frames
from animatediff.data.decoding.videos import probe

_DECODERS = ("pyav",)  # which knows the timestamps of a copy that begins before its shot


class WantedFrames(NamedTuple):
    """Frames of a shot that are wanted."""

    number: int
    """Of frames; a shorter shot gives all that it has."""
    side: int
    """Pixels of the longer side; smaller pictures stay as they are."""
    crop: CropBox | None
    """What is left without bars; None is the whole picture."""


def read_shot_frames(video: bytes, wanted: WantedFrames) -> np.ndarray:
    """Return frames that lie evenly over a shot, the first and the last near its ends.

    Args:
        video: the shot's own video file.
        wanted: how many, and how large.

    Returns:
        (f h w 3) uint8 RGB.

    Raises:
        VideoError: the video cannot be decoded.
    """
    info = probe(video)
    total = len(info.pts)
    number = min(wanted.number, total)
    # The middles of equal stretches: borders are the least typical of a shot.
    indices = np.unique(((np.arange(number) + 0.5) * total / number).astype(int))
    box = wanted.crop or CropBox(0, 0, info.width, info.height)
    scale = min(1.0, wanted.side / max(box.w, box.h))
    height, width = max(1, round(box.h * scale)), max(1, round(box.w * scale))
    boxes = np.tile(np.array(box, float), (len(indices), 1)) if wanted.crop else None
    frames, _ = read_frames(video, info, FrameSelection(indices, height, width, boxes), load_decoders(_DECODERS))
    return frames
