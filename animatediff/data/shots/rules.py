"""Takes: what borders leave of a video, with margins around them, and long ones split; told while frames go by."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from animatediff.data.shots.config import ShotConfig
from animatediff.data.shots.detectors import Border
from animatediff.data.shots.shot import BorderKind


class Take(NamedTuple):
    """Frames of one shot."""

    first: int
    """Number of its first frame."""
    end: int
    """Number of the frame behind its last."""
    before: BorderKind
    after: BorderKind
    strength: float
    """Of the less sure one of its cuts; 1 where it has none."""


class TakeRules:
    """Turns borders into takes, each as soon as it is sure, so that no more of a video need be kept than that.

    Args:
        config: lengths and margins.
        timestamps: (n,) seconds, the start of each frame.
        margin_unit: frames that a frame of a margin stands for.
    """

    def __init__(self, config: ShotConfig, timestamps: np.ndarray, *, margin_unit: int) -> None:
        self._config, self._timestamps, self._margin_unit = config, timestamps, margin_unit
        self._first = 0
        self._before: BorderKind = "start"
        self._strength = 1.0

    @property
    def first(self) -> int:
        """Number of the first frame that a coming take may have."""
        return self._first

    def add(self, borders: Iterable[Border], settled: int) -> Iterator[Take]:
        """Yield the takes that end before `settled`.

        Args:
            borders: in order: all that are new and begin before `settled`.
            settled: number of the first frame at which further borders may begin.
        """
        for border in borders:
            margin = self._margin_unit * self._margin(border)
            strength = border.strength if border.kind == "cut" else 1.0
            yield from self._finish(border.first - margin, border.kind, strength)
            self._first = max(self._first, border.last + margin)
            self._before, self._strength = border.kind, strength
        widest = self._margin_unit * max(self._config.cut_margin, self._config.soft_margin)
        yield from self._split(settled - widest)

    def finish(self, num_frames: int) -> Iterator[Take]:
        """Yield the takes up to the video's end."""
        yield from self._finish(num_frames, "end", 1.0)

    def _margin(self, border: Border) -> int:
        return self._config.cut_margin if border.kind == "cut" else self._config.soft_margin

    def _finish(self, end: int, after: BorderKind, strength: float) -> Iterator[Take]:
        """Yield what is left up to a border."""
        yield from self._split(end)
        if end - self._first > 1 and self._seconds(end) > self._config.max_s:
            middle = (self._timestamps[self._first] + self._time_at(end)) / 2
            yield self._piece(self._frame_at(middle))
        if end > self._first:
            yield Take(self._first, end, self._before, after, min(self._strength, strength))
            self._first = end

    def _split(self, end: int) -> Iterator[Take]:
        """Yield pieces of the greatest length off a shot that lasts until `end` at least; none leaves a short rest."""
        while end > self._first and self._seconds(end) > self._config.max_s + self._config.min_s:
            yield self._piece(self._frame_at(float(self._timestamps[self._first]) + self._config.max_s))

    def _piece(self, end: int) -> Take:
        end = max(end, self._first + 1)
        piece = Take(self._first, end, self._before, "split", self._strength)
        self._first, self._before, self._strength = end, "split", 1.0
        return piece

    def _seconds(self, end: int) -> float:
        """Return how long the frames from `first` to before `end` last, as far as the next frame's start tells."""
        return self._time_at(end) - float(self._timestamps[self._first])

    def _time_at(self, end: int) -> float:
        return float(self._timestamps[min(end, len(self._timestamps) - 1)])

    def _frame_at(self, seconds: float) -> int:
        """Return the number of the last frame that has begun, to within rounding."""
        return int(np.searchsorted(self._timestamps, seconds + 1e-6, side="right")) - 1
