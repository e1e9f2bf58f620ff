"""Scores of clips that need no weights.

Scores select clips when a dataset is used (`animatediff.data.where`); on ingest nothing is dropped because of
them.
"""

import numpy as np
from PIL import Image

from animatediff.data.scoring import measures
from animatediff.data.scoring.hard_cuts import cut_score
from animatediff.data.scoring.phash import phash

_CELLS = 32
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601
_FRAME_SAMPLE = 4  # bars and sharpness hardly change between neighbouring frames


def score(frames: np.ndarray) -> dict[str, float | bool | int]:
    """Return the scores of one clip that need no weights.

    Args:
        frames: (f h w 3) uint8 RGB.

    Returns:
        One value for each of `columns.SCORE_COLUMNS`.
    """
    cells = clip_cells(frames)
    luma = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in frames[::_FRAME_SAMPLE]])
    return {
        "motion": measures.motion_score(frames),
        "moving": measures.moving_share(cells),
        "static": measures.is_static(cells),
        "blank": measures.is_blank(cells),
        "cut": cut_score(cells),
        "letterbox": measures.bar_share(luma),
        "sharpness": measures.sharpness(luma),
        "brightness": float(cells.mean((0, 1, 2)) @ _LUMA / 255),
        "phash": phash(cells[len(cells) // 2] @ _LUMA),
    }


def clip_cells(frames: np.ndarray) -> np.ndarray:
    """Return (f 32 32 3) float32 in [0, 255], the frames reduced by area.

    Args:
        frames: (f h w 3) uint8.
    """
    return np.stack([_reduce(frame) for frame in frames]).astype(np.float32)


def _reduce(frame: np.ndarray) -> np.ndarray:
    # In whole steps first, which halves the time.
    return np.asarray(Image.fromarray(frame).resize((_CELLS, _CELLS), Image.Resampling.BOX, reducing_gap=1.0))
