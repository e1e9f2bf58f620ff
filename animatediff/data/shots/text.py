"""How much of a shot is written: titles and credits, told from scenes, and from scenes with subtitles.

Edges are where brightness changes from pixel to pixel. Writing is edges in lines: much wider than high, apart from what
is above and below, and crossed by many strokes from left to right. A shot is written as far as its edges are in such
lines.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

_MOST_LOOKED_AT = 4
"""Frames of a shot, spread over it."""
_SIDE = 256
_LEAST_STEP = 40.0
"""Levels of 255 between pixels on both sides of an edge."""
_LEAST_EDGES = 60
"""Pixels of edges in a picture that shows something."""
_GAP = 0.06
"""Between words of a line, in shares of the picture's longest side."""
_HEIGHTS = (4, 0.3)
"""Of a line: pixels at least, and at most a share of the picture's height."""
_LEAST_ASPECT = 1.3
_LEAST_STROKES = 1.6
"""Strokes that a row crosses, for each line's height of its way."""
_LEAST_DENSITY = 0.12


def text_score(frames: np.ndarray) -> float:
    """Return how much of a shot is written, in [0, 1]: titles and rolling credits from 0.5, subtitled scenes below.

    Args:
        frames: (f h w 3) uint8 RGB, of about 256 pixels on the longest side, spread over the shot.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, _MOST_LOOKED_AT + 2).round().astype(int)[1:-1])
    counts = np.array([_count_edges(_luma(frames[i])) for i in chosen]).reshape(-1, 2)
    shown = counts[counts[:, 0] >= _LEAST_EDGES]
    return float(shown[:, 1].sum() / shown[:, 0].sum()) if len(shown) else 0.0


def _luma(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).convert("L"), np.float32)


def _count_edges(luma: np.ndarray) -> tuple[int, int]:
    """Pixels of edges in an (h w) picture, and of those the ones in lines of writing."""
    across, down = np.zeros_like(luma), np.zeros_like(luma)
    across[:, 1:-1] = np.abs(luma[:, 2:] - luma[:, :-2])
    down[1:-1] = np.abs(luma[2:] - luma[:-2])
    edges = np.maximum(across, down) > _LEAST_STEP
    strokes = across > _LEAST_STEP
    gap = max(3, round(_GAP * max(luma.shape))) // 2 * 2 + 1
    joined = ndimage.binary_closing(np.pad(edges, ((0, 0), (gap, gap))), np.ones((1, gap), bool))[:, gap:-gap]
    labels, _ = ndimage.label(joined)
    written = 0
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if _is_line(box, strokes, luma.shape):
            written += int(edges[box][labels[box] == label].sum())
    return int(edges.sum()), written


def _is_line(box: tuple[slice, slice], strokes: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether what is in a box is a line of writing, by its measures and its strokes."""
    height, width = (side.stop - side.start for side in box)
    if not _HEIGHTS[0] <= height <= _HEIGHTS[1] * shape[0] or width < _LEAST_ASPECT * height:
        return False
    inside = strokes[box]
    crossings = (inside[:, 1:] & ~inside[:, :-1]).sum(1)
    return bool(np.median(crossings) * height / width >= _LEAST_STROKES and inside.mean() >= _LEAST_DENSITY)
