"""Borders between shots: hard cuts, dissolves and fades, found while frames go by.

A cut is where no picture before it explains one behind it, even when blocks of the picture may move: four frames on
both sides are compared, so that a flash of one to three frames is none. A dissolve is where a frame is a mix of the
frames around it, which motion does not explain. A fade goes through black.

Thresholds are measured: on 130 hard cuts and a fade of a filmed music video (labelled by eye), all are found and
nothing else; on drawn episodes (`tests/support_episodes.py`), see `tests/benchmarks/bench_shots.py`.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from animatediff.data.scoring.hard_cuts import GRID, layouts, mismatch
from animatediff.data.shots.detectors import Border, SoftKind

SIDE = 2 * GRID
"""Height and width of the frames that are looked at, reduced by area, without black bars."""

_REACH = 4
"""Frames on both sides of a cut: a shot of fewer is taken for a flash."""
_LEAST_JUMP = 0.2
_LEAST_CUT = 0.15
_LEAST_STILL_JUMP, _LEAST_STILL_CUT = 0.05, 0.5
"""Where nothing moves on both sides, as between title cards, a smaller jump to another picture is a cut too."""
_STILL = 0.25
"""Of the jump, the most that changes on both sides where nothing moves."""
_STEPS = (4, 8, 12, 16)
"""Distances at which a frame is compared with a mix of those before and behind it: dissolves last 6 to 48 frames."""
_AHEAD = _REACH + 1
"""Frames behind one that must be there before a cut at it can be judged."""
_CONTEXT = max(_STEPS) + _AHEAD
"""The same for mixes: no cut may lie between the frames that are mixed."""
_LEAST_CHANGE = 18.0
"""Levels of 255 between the frames that are mixed; of smaller ones noise is a mix, too."""
_LEAST_ENDS = 0.5
_LEAST_UNLIKE = ((0.12, _LEAST_ENDS, 0.25), (0.25, _LEAST_ENDS, 0.35), (0.33, 0.65, 0.42))
"""Up to which share of that change a mix may leave unexplained, what motion may not explain between its ends at least,
and between its middle and either end, as shares of the contrast."""
_MOST_RESIDUAL = max(row[0] for row in _LEAST_UNLIKE)
_MOST_NEAR_RESIDUAL = 0.5
"""The same for a mix of those at half the distance."""
_LEAST_CORRELATION = 0.99
"""Of two pictures of one thing, of which one is lit otherwise."""
_MIDDLE = (0.25, 0.75)
_LEAST_FRAMES = 2
_DARK = 24.0
"""Levels of 255 of the brightest part of a picture that counts as black."""
_LONGEST_DARK = 48
_DIMMED = 0.75
_JOINED = 10
"""Frames between two soft runs that are one border: the two halves of a fade."""
_TAIL = 5
"""Frames by which the middle of a dissolve, which is what is found, is shorter than it on each side."""
_LONG, _LONG_TAIL = 12, 10
"""Of those whose middle is longer, of which more is missing: up to 23 frames where 48 were mixed."""
_LONGEST_SOFT = 250
"""Frames from the first to the last middle of what is one border: what goes on for longer is told in pieces, so that
no more of the video need be kept."""
_CHUNK = 128


class LayoutDetector:
    """Finds the borders of a video of any length, from frames in their order; a few hundred are in memory."""

    height = width = SIDE

    def __init__(self) -> None:
        self._waiting: list[np.ndarray] = []
        self._pictures = np.zeros((0, GRID, GRID, 3), np.float32)
        self._offset = 0
        """Number of the first frame of `_pictures`."""
        self._next = 0
        """Number of the first frame that is not judged yet."""
        self._next_cut = 0
        """The same for cuts alone, which are judged sooner."""
        self._cuts: list[Border] = []
        """Those that are not told yet."""
        self._near_cuts: list[int] = []
        """Frames of those within `_pictures`."""
        self._soft: list[Border] = []
        """Single frames in the middle of dissolves and fades, and black stretches, that belong to none told yet."""
        self.settled = 0
        """Number of the first frame at which borders may begin that are not told yet."""
        self._before_dark: tuple[int, np.ndarray, bool] | None = None
        """While it is black: since which frame, what was to be seen before, and whether that faded."""

    def add(self, cells: np.ndarray) -> list[Border]:
        """Take the next frame, and return the borders that are sure now, in their order.

        Args:
            cells: (32 32 3) in [0, 255].
        """
        self._waiting.append(cells)
        if len(self._waiting) < _CHUNK:
            return []
        self._judge(is_end=False)
        is_dark_since = self._before_dark[0] if self._before_dark else self._next
        # What has been black for longer is no border any more.
        return self._tell(is_dark_since if self._next - is_dark_since <= _LONGEST_DARK else self._next)

    def finish(self) -> list[Border]:
        """Return the borders that are left when all frames are there."""
        self._judge(is_end=True)
        return self._tell(None)

    def _tell(self, open_from: int | None) -> list[Border]:
        """Return the borders that no further frame changes.

        Args:
            open_from: number of the first frame at which soft ones may still be found; None where none may.
        """
        cut_frames = [cut.first for cut in self._cuts]
        runs = _runs(self._soft)
        is_open = bool(runs) and open_from is not None and open_from - _end_of(runs[-1]) <= _JOINED
        if is_open and open_from is not None and open_from - runs[-1][0].first > _LONGEST_SOFT:
            is_open = False
        self._soft = runs.pop() if is_open else []
        told = [border for run in runs if (border := _joined(run, cut_frames))]
        self._cuts = [cut for cut in self._cuts if not any(soft.first < cut.first <= soft.last for soft in told)]
        if open_from is None:
            settled = self._next
        else:
            settled = max(self.settled, (self._soft[0].first if is_open else open_from) - _LONG_TAIL)
        sure = [cut for cut in self._cuts if open_from is None or cut.first < settled]
        self._cuts = self._cuts[len(sure) :]
        self.settled = settled
        return sorted([*sure, *told])

    def _judge(self, *, is_end: bool) -> None:
        """Judge each frame that has enough frames behind it, and keep those that later ones need."""
        if self._waiting:
            cells = np.stack(self._waiting).astype(np.float32)
            # Four additions take a tenth of the time of `mean` over two axes.
            quarters = (cells[:, y::2, x::2] for y in (0, 1) for x in (0, 1))
            self._pictures = np.concatenate([self._pictures, sum(quarters) / 4])
            self._waiting.clear()
        first, last = self._next - self._offset, len(self._pictures) - (0 if is_end else _CONTEXT)
        if first >= last:
            return
        self._judge_cuts(len(self._pictures) - (0 if is_end else _AHEAD))
        is_dark = self._pictures.mean(-1).max((1, 2)) < _DARK
        for i, step in _find_mixes(self._pictures, np.array(self._near_cuts) - self._offset, first, last):
            kind: SoftKind = "fade" if is_dark[i - step : i + step + 1].any() else "dissolve"
            is_light = kind == "dissolve" and _is_same_picture(self._pictures[[i - step, i + step]])
            self._soft.append(Border(self._offset + i, self._offset + i + 1, kind, 0.0 if is_light else 1.0))
        self._follow_darkness(is_dark, first, last)
        keep = max(0, last - _CONTEXT)
        self._pictures = self._pictures[keep:]
        self._next, self._offset = self._offset + last, self._offset + keep
        self._near_cuts = [cut for cut in self._near_cuts if cut >= self._offset]

    def _judge_cuts(self, last: int) -> None:
        """Find the cuts up to before frame `last` of `_pictures`."""
        for i, strength in _find_cuts(self._pictures, max(1, self._next_cut - self._offset), last):
            self._cuts.append(Border(self._offset + i, self._offset + i, "cut", strength))
            self._near_cuts.append(self._offset + i)
        self._next_cut = self._offset + last

    def _follow_darkness(self, is_dark: np.ndarray, first: int, last: int) -> None:
        """Note black stretches that a picture fades into or out of, between two pictures that are not the same."""
        pictures = self._pictures
        for i in (np.flatnonzero(np.diff(is_dark[:last], prepend=is_dark[:1]))).tolist():
            if i < first:
                continue
            if is_dark[i]:
                before = pictures[max(0, i - _CONTEXT)]
                self._before_dark = (self._offset + i, before, _is_dimmer(pictures[i - 1], before))
            elif self._before_dark is not None:
                since, before, fades_out = self._before_dark
                after = pictures[min(i + _CONTEXT, len(pictures)) - 1]
                is_fade = fades_out or _is_dimmer(pictures[i], after)
                until = self._offset + i
                if is_fade and until - since <= _LONGEST_DARK and _mismatch_of(before, after) > _LEAST_ENDS:
                    self._soft.append(Border(since, until, "fade", 1.0))
                self._before_dark = None


def _is_dimmer(picture: np.ndarray, other: np.ndarray) -> bool:
    """Whether a picture at the edge of black is on its way there, and no flash or cut's neighbour."""
    return float(picture.mean()) < _DIMMED * float(other.mean())


def _find_cuts(pictures: np.ndarray, first: int, last: int) -> Iterator[tuple[int, float]]:
    """Yield the frames from `first` to before `last` that begin a shot by a cut, and how strong it is."""
    distances = layouts(pictures)
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
        inside = [pair for side in (before[-2:], behind[:2]) for pair in pairwise(side)]
        strength = float(mismatch(pictures, across).min())
        if inside:
            strength -= float(mismatch(pictures, np.array(inside)).mean())
        if strength > (_LEAST_CUT if least > _LEAST_JUMP else _LEAST_STILL_CUT):
            yield i, min(1.0, strength)


def _find_mixes(pictures: np.ndarray, cuts: np.ndarray, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the frames from `first` to before `last` that are mixes of those so many steps before and behind them.

    No cut of `cuts` lies between the frames that are mixed.
    """
    rows = pictures.reshape(len(pictures), -1)
    num_cuts = np.searchsorted(cuts, np.arange(len(pictures)), side="right")
    found: dict[int, int] = {}
    for step in _STEPS:
        middles = np.arange(max(first, step), min(last, len(rows) - step))
        middles = middles[num_cuts[middles + step] == num_cuts[middles - step]]
        middles = middles[np.abs(rows[middles + step] - rows[middles - step]).mean(1) > _LEAST_CHANGE]
        residual = _residuals(rows, middles, step)
        is_mix = residual < _MOST_RESIDUAL
        middles, residual = middles[is_mix], residual[is_mix]
        # Two borders on both sides of a short shot are no mix of it: nearer by, nothing is one.
        is_mix = _residuals(rows, middles, step // 2) < _MOST_NEAR_RESIDUAL
        middles, residual = middles[is_mix], residual[is_mix]
        for i in middles[_are_unlike(pictures, middles, step, residual)].tolist():
            found.setdefault(i, step)
    yield from sorted(found.items())


def _residuals(rows: np.ndarray, middles: np.ndarray, step: int) -> np.ndarray:
    """(n,) share of the change between both ends that their mix leaves unexplained; infinite far from the middle."""
    before = rows[middles - step]
    change, offset = rows[middles + step] - before, rows[middles] - before
    share = np.einsum("ij,ij->i", offset, change) / np.maximum(np.einsum("ij,ij->i", change, change), 1e-6)
    residual = np.abs(offset - share[:, None] * change).mean(1) / np.maximum(np.abs(change).mean(1), 1e-6)
    return np.where((share > _MIDDLE[0]) & (share < _MIDDLE[1]), residual, np.inf)


def _are_unlike(pictures: np.ndarray, middles: np.ndarray, step: int, residuals: np.ndarray) -> np.ndarray:
    """(n,) bool: whether motion explains neither one end of a mix by the other, nor its middle by an end."""
    befores, behinds = middles - step, middles + step
    pairs = np.stack([[befores, behinds], [befores, middles], [middles, behinds]]).transpose(0, 2, 1)
    ends, *halves = mismatch(pictures, pairs.reshape(-1, 2)).reshape(3, -1)
    rows = np.searchsorted([most for most, _, _ in _LEAST_UNLIKE], residuals, side="right")
    least_ends, least_middles = np.array(_LEAST_UNLIKE)[rows, 1:].T
    return np.asarray((ends > least_ends) & (np.minimum(*halves) > least_middles))


def _is_same_picture(pictures: np.ndarray) -> bool:
    """Whether two are one picture in another light: the levels of each colour change by one straight line."""
    channels = pictures.reshape(2, -1, 3)
    channels = channels - channels.mean(1, keepdims=True)
    covariances = (channels[0] * channels[1]).sum(0)
    return bool((covariances > _LEAST_CORRELATION * np.sqrt((channels**2).sum(1).prod(0))).all())


def _mismatch_of(picture: np.ndarray, other: np.ndarray) -> float:
    return float(mismatch(np.stack([picture, other]), np.array([(0, 1)]))[0])


def _runs(soft: list[Border]) -> list[list[Border]]:
    """Return the frames and black stretches that are so close to each other that they are one dissolve or fade."""
    runs: list[list[Border]] = []
    for border in sorted(soft):
        if runs and border.first - _end_of(runs[-1]) <= _JOINED and border.first - runs[-1][0].first <= _LONGEST_SOFT:
            runs[-1].append(border)
        else:
            runs.append([border])
    return runs


def _end_of(run: list[Border]) -> int:
    return max(one.last for one in run)


def _joined(run: list[Border], cuts: list[int]) -> Border | None:
    """Return the dissolve or fade that a run is, in its whole length; None where only the light changes."""
    first, last = run[0].first, _end_of(run)
    # Light that goes down to a cut, and up behind it, is a fade without a black picture.
    is_border = any(one.strength for one in run) or any(first < cut < last for cut in cuts)
    if last - first < _LEAST_FRAMES or not is_border:
        return None
    kind: SoftKind = "fade" if any(one.kind == "fade" for one in run) else "dissolve"
    tail = _LONG_TAIL if last - first > _LONG else _TAIL
    return Border(max(0, first - tail), last + tail, kind, 1.0)
