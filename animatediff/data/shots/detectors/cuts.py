"""Hard cuts of a run of frames, told from flashes, shakes and drawings that change at a stroke.

A cut is where no picture before it explains one behind it, even when blocks of the picture may move: four frames on
both sides are compared, so that a flash of one to three frames is none, and those around a glare. On one side of it at
least pictures hold together.
"""

from collections.abc import Iterator

import numpy as np

from animatediff.data.scoring.hard_cuts import layouts, mismatch

_REACH = 4
"""Frames on both sides of a cut: a shot of fewer is taken for a flash."""
_LEAST_JUMP = 0.2
_LEAST_CUT = 0.15
_LEAST_STILL_JUMP, _LEAST_STILL_CUT = 0.05, 0.5
"""Where nothing moves on both sides, as between title cards, a smaller jump to another picture is a cut too."""
_STILL = 0.25
"""Of the jump, the most that changes on both sides where nothing moves."""
_CALM = 6
"""Frames on both sides of a cut, of which on one side at least no two that follow each other differ as much: where
every drawing is another one, as of lines of speed, is none, whether drawn on ones, twos, threes or fours."""
_LONGEST_FLASH = 12
_WASHED_OUT, _BLANK = 0.6, 0.25
"""Of the greatest contrast around, the most of a picture in a glare of so many frames, and at its height."""
_MOVED_IN_GLARE = 0.25
"""By how much more the pictures before and behind a glare may differ, since they are farther from each other."""
AHEAD = _LONGEST_FLASH + _REACH + 1
"""Frames behind one that must be there before a cut at it can be judged."""


def find_cuts(pictures: np.ndarray, first: int, last: int) -> Iterator[tuple[int, float]]:
    """Yield the frames from `first` to before `last` that begin a shot by a cut, and how strong it is."""
    distances, contrasts = layouts(pictures), pictures.std((1, 2)).mean(-1)
    begin, end = max(1, first - 1), min(len(pictures), last + 1)
    jumps = np.zeros(len(pictures) + 1)
    jumps[begin:end] = distances(np.arange(begin - 1, end - 1), np.arange(begin, end))
    beside = np.maximum(jumps[first - 1 : last - 1], jumps[first + 1 : last + 1])
    is_still = beside < _STILL * jumps[first:last]
    least_jumps = np.where(is_still, _LEAST_STILL_JUMP, _LEAST_JUMP)
    for i in (np.flatnonzero(jumps[first:last] > least_jumps) + first).tolist():
        before, behind = np.arange(max(0, i - _REACH), i), np.arange(i, min(len(pictures), i + _REACH))
        across = np.stack(np.meshgrid(before, behind, indexing="ij"), -1).reshape(-1, 2)
        least = float(distances(across[:, 0], across[:, 1]).min())
        if least <= least_jumps[i - first]:
            continue
        # The farthest of both sides are a quarter of the pairs, and never the most alike.
        across = across[(across[:, 0] >= i - 2) | (across[:, 1] < i + 2)]
        strength = float(mismatch(pictures, across).min())
        if len(around := _around_glare(contrasts, i)):
            strength = min(strength, float(mismatch(pictures, around).min()) - _MOVED_IN_GLARE)
        least_strength = _LEAST_CUT if least > _LEAST_JUMP else _LEAST_STILL_CUT
        if strength > least_strength and (strength := strength - _unrest(pictures, i)) > least_strength:
            yield i, min(1.0, strength)


def _unrest(pictures: np.ndarray, i: int) -> float:
    """Return how much frames that follow each other differ at most on the calmer side of a frame."""
    firsts = np.arange(max(0, i - _CALM), min(len(pictures), i + _CALM) - 1)
    found = mismatch(pictures, np.stack([firsts, firsts + 1], 1))
    return min(float(side.max(initial=0)) for side in (found[firsts < i - 1], found[firsts >= i]))


def _around_glare(contrasts: np.ndarray, i: int) -> np.ndarray:
    """Return the pairs of frames before and behind the glare that a frame begins, ends or is part of; or none."""
    begin, end = max(0, i - _LONGEST_FLASH), min(len(contrasts), i + _LONGEST_FLASH)
    shares = contrasts[begin:end] / max(1e-6, contrasts[begin:end].max())
    is_seen = shares >= _WASHED_OUT
    before = np.flatnonzero(is_seen[: i - begin]) + begin
    behind = np.flatnonzero(is_seen[i - begin :]) + i
    if not len(before) or not len(behind) or behind[0] - before[-1] > _LONGEST_FLASH + 1:
        return np.zeros((0, 2), int)
    if shares[before[-1] - begin : behind[0] - begin].min() > _BLANK:
        return np.zeros((0, 2), int)
    # Light comes back by and by.
    after = np.arange(behind[0], min(len(contrasts), behind[0] + _REACH))
    return np.stack([np.full(len(after), before[-1]), after], 1)
