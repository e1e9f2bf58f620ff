"""Frames that are mixes of those before and behind them, as in a dissolve or a fade, which motion does not explain."""

from collections.abc import Iterator

import numpy as np

from animatediff.data.scoring.hard_cuts import mismatch

STEPS = (4, 8, 12, 16)
"""Distances at which a frame is compared with a mix of those before and behind it: dissolves last 6 to 48 frames."""
LEAST_CHANGE = 18.0
"""Levels of 255 between the frames that are mixed; of smaller ones noise is a mix, too."""
_USUAL_CONTRAST = 36.0
_MOST_GAIN = 4.0
"""Pictures of less contrast are compared as if they had that, up to so many times theirs: dark scenes dissolve too."""
LEAST_ENDS = 0.5
_LEAST_UNLIKE = ((0.12, LEAST_ENDS, 0.25), (0.25, LEAST_ENDS, 0.35), (0.33, 0.65, 0.42))
"""Up to which share of that change a mix may leave unexplained, what motion may not explain between its ends at least,
and between its middle and either end, as shares of the contrast."""
_MOST_RESIDUAL = max(row[0] for row in _LEAST_UNLIKE)
_MOST_NEAR_RESIDUAL = 0.5
"""The same for a mix of those at half the distance."""
_MIDDLE = (0.25, 0.75)


def find_mixes(pictures: np.ndarray, cuts: np.ndarray, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the frames from `first` to before `last` that are mixes of those so many steps before and behind them.

    No cut of `cuts` lies between the frames that are mixed.
    """
    rows, contrasts = pictures.reshape(len(pictures), -1), pictures.std((1, 2)).mean(-1)
    num_cuts = np.searchsorted(cuts, np.arange(len(pictures)), side="right")
    found: dict[int, int] = {}
    for step in STEPS:
        middles = np.arange(max(first, step), min(last, len(rows) - step))
        middles = middles[num_cuts[middles + step] == num_cuts[middles - step]]
        gains = gains_of(contrasts, middles, step)
        middles = middles[np.abs(rows[middles + step] - rows[middles - step]).mean(1) * gains > LEAST_CHANGE]
        residual = _residuals(rows, middles, step)
        is_mix = residual < _MOST_RESIDUAL
        middles, residual = middles[is_mix], residual[is_mix]
        # Two borders on both sides of a short shot are no mix of it: nearer by, nothing is one.
        is_mix = _residuals(rows, middles, step // 2) < _MOST_NEAR_RESIDUAL
        middles, residual = middles[is_mix], residual[is_mix]
        gains = gains_of(contrasts, middles, step)
        for i in middles[_are_unlike(pictures, middles, step, residual, gains)].tolist():
            found.setdefault(i, step)
    yield from sorted(found.items())


def _residuals(rows: np.ndarray, middles: np.ndarray, step: int) -> np.ndarray:
    """(n,) share of the change between both ends that their mix leaves unexplained; infinite far from the middle."""
    before = rows[middles - step]
    change, offset = rows[middles + step] - before, rows[middles] - before
    share = np.einsum("ij,ij->i", offset, change) / np.maximum(np.einsum("ij,ij->i", change, change), 1e-6)
    residual = np.abs(offset - share[:, None] * change).mean(1) / np.maximum(np.abs(change).mean(1), 1e-6)
    return np.where((share > _MIDDLE[0]) & (share < _MIDDLE[1]), residual, np.inf)


def gains_of(contrasts: np.ndarray, middles: np.ndarray, step: int) -> np.ndarray:
    """(n,) by how much the contrast of the ends of each mix is less than usual, at least 1."""
    ends = np.maximum(contrasts[middles - step], contrasts[middles + step])
    return np.clip(_USUAL_CONTRAST / np.maximum(ends, 1e-6), 1, _MOST_GAIN)


def _are_unlike(
    pictures: np.ndarray, middles: np.ndarray, step: int, residuals: np.ndarray, gains: np.ndarray
) -> np.ndarray:
    """(n,) bool: whether motion explains neither one end of a mix by the other, nor its middle by an end."""
    befores, behinds = middles - step, middles + step
    pairs = np.stack([[befores, behinds], [befores, middles], [middles, behinds]]).transpose(0, 2, 1)
    gains = np.broadcast_to(gains, (3, len(gains))).ravel()
    ends, *halves = mismatch(pictures, pairs.reshape(-1, 2), gains).reshape(3, -1)
    rows = np.searchsorted([most for most, _, _ in _LEAST_UNLIKE], residuals, side="right")
    least_ends, least_middles = np.array(_LEAST_UNLIKE)[rows, 1:].T
    return np.asarray((ends > least_ends) & (np.minimum(*halves) > least_middles))
