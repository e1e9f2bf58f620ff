"""Which videos are held out of training, to see how it does on clips that it has never seen."""

import zlib
from collections.abc import Sequence

import numpy as np


def is_held_out(video_ids: Sequence[str], fraction: float) -> np.ndarray:
    """Return whether each video is held out, decided by its id alone.

    So all clips of a video stay together, and a dataset that grows, or is read in another order, keeps the split.

    Args:
        video_ids: n of them.
        fraction: of all videos, in [0, 1].

    Returns:
        (n,) bool.
    """
    hashes = np.fromiter((zlib.crc32(video_id.encode()) for video_id in video_ids), np.uint32, len(video_ids))
    return hashes < fraction * 2**32
