"""Borders between shots: hard cuts, dissolves, fades and wipes, found while frames go by.

A dissolve is where frames are mixes of those around them, a fade goes through black, and in a wipe the next shot takes
one part of the picture after the other.

Thresholds are measured: on 130 hard cuts and a fade of a filmed music video (labelled by eye), all are found and
nothing else; on drawn episodes see `tests/benchmarks/bench_shots.py`.
"""

import numpy as np

from animatediff.data.scoring.hard_cuts import GRID, mismatch
from animatediff.data.shots.detectors import Border, SoftKind
from animatediff.data.shots.detectors.cuts import AHEAD, find_cuts
from animatediff.data.shots.detectors.mixes import LEAST_ENDS, STEPS, find_mixes
from animatediff.data.shots.detectors.wipes import find_wipes

SIDE = 2 * GRID
"""Height and width of the frames that are looked at, reduced by area, without black bars."""
_CONTEXT = max(STEPS) + AHEAD
"""Frames around one that must be there before it can be the middle of a mix: no cut may lie between its ends."""
_LEAST_CORRELATION = 0.99
"""Of two pictures of one thing, of which one is lit otherwise."""
_LEAST_FRAMES = 2
_DARK = 24.0
"""Levels of 255 of the brightest part of a picture that counts as black."""
_LONGEST_DARK = 48
_FADED_FOR = 20
"""Frames before and behind black at which a picture that fades is seen as it is, if no cut is nearer."""
_LEAST_FADE_ENDS = (np.inf, LEAST_ENDS, 0.15)
"""What motion may not explain at least between the pictures before and behind black, where neither, one or both of them
fade: credits that fade into others are much alike."""
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
        """Single frames in the middle of soft borders, and black stretches, that belong to none told yet."""
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
        self._judge_cuts(len(self._pictures) - (0 if is_end else AHEAD))
        is_dark = self._pictures.mean(-1).max((1, 2)) < _DARK
        cuts = np.array(self._near_cuts, int) - self._offset
        for i, step in find_mixes(self._pictures, cuts, first, last):
            kind: SoftKind = "fade" if is_dark[i - step : i + step + 1].any() else "dissolve"
            is_light = kind == "dissolve" and _is_same_picture(self._pictures[[i - step, i + step]])
            self._soft.append(Border(self._offset + i, self._offset + i + 1, kind, 0.0 if is_light else 1.0))
        for i in find_wipes(self._pictures, cuts, first, last):
            self._soft.append(Border(self._offset + i, self._offset + i + 1, "wipe", 1.0))
        self._follow_darkness(is_dark, first, last)
        keep = max(0, last - _CONTEXT)
        self._pictures = self._pictures[keep:]
        self._next, self._offset = self._offset + last, self._offset + keep
        self._near_cuts = [cut for cut in self._near_cuts if cut >= self._offset]

    def _judge_cuts(self, last: int) -> None:
        """Find the cuts up to before frame `last` of `_pictures`."""
        for i, strength in find_cuts(self._pictures, max(1, self._next_cut - self._offset), last):
            self._cuts.append(Border(self._offset + i, self._offset + i, "cut", strength))
            self._near_cuts.append(self._offset + i)
        self._next_cut = self._offset + last

    def _follow_darkness(self, is_dark: np.ndarray, first: int, last: int) -> None:
        """Note black stretches that a picture fades into or out of, between two pictures that are not the same."""
        pictures, cuts = self._pictures, [cut - self._offset for cut in self._near_cuts]
        for i in (np.flatnonzero(np.diff(is_dark[:last], prepend=is_dark[:1]))).tolist():
            if i < first:
                continue
            if is_dark[i]:
                before = pictures[max([0, i - _FADED_FOR, *(cut for cut in cuts if cut < i)])]
                self._before_dark = (self._offset + i, before, _is_dimmer(pictures[i - 1], before))
            elif self._before_dark is not None:
                since, before, fades_out = self._before_dark
                after = pictures[min([len(pictures), i + _FADED_FOR, *(cut for cut in cuts if cut > i)]) - 1]
                num_ways = fades_out + _is_dimmer(pictures[i], after)
                until = self._offset + i
                is_other = _mismatch_of(before, after) > _LEAST_FADE_ENDS[num_ways]
                if until - since <= _LONGEST_DARK and is_other:
                    self._soft.append(Border(since, until, "fade", 1.0))
                self._before_dark = None


def _is_dimmer(picture: np.ndarray, other: np.ndarray) -> bool:
    """Whether a picture at the edge of black is on its way there, and no flash or cut's neighbour."""
    return float(picture.mean()) < _DIMMED * float(other.mean())


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
    kinds = [one.kind for one in run]
    kind: SoftKind = "fade" if "fade" in kinds else "wipe" if kinds.count("wipe") > len(kinds) / 2 else "dissolve"
    tail = _LONG_TAIL if last - first > _LONG else _TAIL
    return Border(max(0, first - tail), last + tail, kind, 1.0)
