"""Frames in which the next shot has taken a part of the picture already, as in wipes, irises and doors.

Each of their cells shows what it shows before, or what it shows behind; the more frames go by, the more show that.
"""

from collections.abc import Iterator

import numpy as np

from animatediff.data.scoring.hard_cuts import mismatch
from animatediff.data.shots.detectors.mixes import LEAST_CHANGE, LEAST_ENDS, gains_of

STEPS = (4, 8, 12)
"""Distances between a frame and those that it may be made of: wipes last 6 to 24 frames."""
_MOST_NEITHER = 0.25
"""Of the difference between both ends, the most that is of neither."""
_MOST_UNMOVED = 0.45
"""The same where nothing may move: quick to tell."""
_MOST_DRIFT = 0.7
"""Of that difference, the most that cells would change by if they always did as they do in half of the frames: in a
wipe they change once, in a few frames; where the camera or all that it sees moves, by 0.9 and more."""
_LEAST_PART = 0.2
"""Of the picture and of that difference, what is of either end at least."""
_LEAST_GROWTH = 0.15
"""Of the picture, what the later one takes in half the distance at least."""
_LEAST_CONTRAST = 0.45
"""Of the contrast, the least difference between both ends."""


def find_wipes(pictures: np.ndarray, cuts: np.ndarray, first: int, last: int) -> Iterator[int]:
    """Yield the frames that are made of one before them and of one behind, between which no cut lies.

    Args:
        pictures: (f 16 16 3) float32 in [0, 255].
        cuts: (n,) frames that begin a shot, in order.
        first: of the frames that are looked at.
        last: the frame behind these.
    """
    num_cuts = np.searchsorted(cuts, np.arange(len(pictures)), side="right")
    contrasts = pictures.std((1, 2)).mean(-1)
    found: set[int] = set()
    for step in STEPS:
        middles = np.arange(max(first, step), min(last, len(pictures) - step))
        middles = middles[num_cuts[middles + step] == num_cuts[middles - step]]
        changes = np.abs(pictures[middles + step] - pictures[middles - step]).mean((1, 2, 3))
        middles = middles[changes * gains_of(contrasts, middles, step) > LEAST_CHANGE]
        middles = middles[_grows(pictures, middles, step)]
        middles = middles[_is_of_both(pictures, contrasts, middles, step)]
        found.update(middles.tolist())
    yield from sorted(found)


def _grows(pictures: np.ndarray, middles: np.ndarray, step: int) -> np.ndarray:
    """(n,) bool: whether more and more of the picture is of its later end, and each cell becomes that at a stroke."""
    befores, behinds = middles - step, middles + step
    before, behind = pictures[befores], pictures[behinds]
    parts, neither = [], np.zeros(0)
    for at in (middles - step // 2, middles + step // 2, middles):
        to_before, to_behind = (np.abs(pictures[at] - end).mean(-1) for end in (before, behind))
        parts.append((to_behind < to_before).mean((1, 2)))
        neither = np.minimum(to_before, to_behind).sum((1, 2))
    earlier, later, part = parts
    ends = np.abs(behind - before).mean(-1).sum((1, 2))
    grows = (part - earlier > _LEAST_GROWTH) & (later - part > _LEAST_GROWTH) & (neither < _MOST_UNMOVED * ends)
    grows &= (part > _LEAST_PART) & (part < 1 - _LEAST_PART)
    befores, ends = befores[grows], ends[grows]
    changes = [np.abs(pictures[befores + at + 1] - pictures[befores + at]).mean(-1) for at in range(2 * step)]
    grows[grows] = 2 * step * np.median(changes, axis=0).sum((1, 2)) < _MOST_DRIFT * ends
    return np.asarray(grows)


def _is_of_both(pictures: np.ndarray, contrasts: np.ndarray, middles: np.ndarray, step: int) -> np.ndarray:
    """(n,) bool: whether frames show what their ends show, which are unlike each other, and neither shows it all."""
    befores, behinds = middles - step, middles + step
    before, middle, behind = pictures[befores], pictures[middles], pictures[behinds]
    of_before, of_behind = _difference(middle, before), _difference(middle, behind)
    ends = _difference(behind, before).mean((1, 2))
    contrast = np.maximum(contrasts[befores], contrasts[behinds])
    is_of_both = (
        (ends > _LEAST_CONTRAST * contrast)
        & (np.minimum(of_before, of_behind).mean((1, 2)) < _MOST_NEITHER * ends)
        & (np.minimum(of_before.mean((1, 2)), of_behind.mean((1, 2))) > _LEAST_PART * ends)
    )
    is_of_both[is_of_both] = mismatch(pictures, np.stack([befores, behinds], 1)[is_of_both]) > LEAST_ENDS
    return np.asarray(is_of_both)


def _difference(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n 16 16) mean absolute difference of each cell and the most similar one near its place in the other picture."""
    height, width = pictures.shape[1:3]
    padded = np.pad(others, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = (padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3))
    return np.asarray(np.minimum.reduce([np.abs(shifted - pictures).mean(-1) for shifted in shifts]))
