"""Rates: the duration of a frame, fitted over a whole run of timestamps, which containers round."""

from dataclasses import dataclass

import numpy as np

from animatediff.data.quarantine import Reason, VideoError

_NEAR = 0.3
"""How far from the median, in shares of it, a distance may be to be that of two neighbours: at 240 frames a second,
milliseconds are 4 and 5."""
_MOST = 0.9
"""Share of the distances that must be near half of what a pair takes."""
_CHUNK = 32
"""Frames over which the rate must hold where it does not hold throughout: that of a phone drifts by a percent."""
_OFF = 0.25
"""Most that a timestamp may lie off a constant rate, in frames: rounding and the jitter of a recording, but no change
of rate."""
_ROUNDED = 0.01
"""Up to so many frames off, timestamps are kept as they are."""

MIN_FPS, MAX_FPS = 0.1, 1000.0
"""Frames a second of what is a video: phones film 960, and a picture that stands for ten seconds is a slide. What lies
beyond has a clock gone wrong, and a clip of it would be taught as motion."""
MAX_LENGTH_S = 30 * 86_400
"""Seconds from the first frame to the last, which a recorder that runs for weeks may reach."""


@dataclass(frozen=True)
class Rate:
    """How fast frames follow each other."""

    frame_s: float
    """Seconds from one frame to the next; 0 where there is one frame."""
    timestamps: np.ndarray
    """(n,) seconds: the timestamps given, evened where the rate is constant."""


def fit_rate(timestamps: np.ndarray) -> Rate:
    """Fit a constant rate to timestamps, or take their median distance where there is none.

    Milliseconds, the time base of Matroska, WebM and FLV, turn 30 frames a second into distances of 33 and 34 ms, whose
    median is 1% too short. Frames that are missing, or a pause, neither change the rate nor are they filled in.

    Args:
        timestamps: (n,) seconds, ascending.
    """
    steps = np.diff(timestamps)
    typical = float(np.median(steps)) if len(steps) else 0.0
    median = Rate(typical, timestamps)
    near = np.abs(steps - typical) <= _NEAR * typical
    # Film on a DVD is shown for two fields and three in turn: the median is one of the two, what a pair takes is even.
    of_pairs = float(np.median(timestamps[2:] - timestamps[:-2])) / 2 if len(steps) > 1 else typical
    near_pairs = np.abs(steps - of_pairs) <= _NEAR * of_pairs
    if len(steps) and near_pairs.mean() > max(_MOST, near.mean()):
        typical, near = of_pairs, near_pairs
    if not len(steps) or near.mean() < 0.5 or np.ptp(steps[near]) < 1e-6 * typical:
        return median
    for longest in (len(timestamps), _CHUNK):
        frame_s, even = _fit_lines_of_one_slope(timestamps, ~near, longest)
        off = np.abs(timestamps - even).max() / frame_s
        if off <= _OFF and np.diff(even).min() > 0:
            return Rate(frame_s, timestamps if off < _ROUNDED else even)
    return median


def _fit_lines_of_one_slope(timestamps: np.ndarray, breaks: np.ndarray, longest: int) -> tuple[float, np.ndarray]:
    """Fit straight lines of one slope, each with a start of its own, through the runs of at most `longest` frames.

    Args:
        timestamps: (n,) seconds.
        breaks: (n - 1,) bool: between which frames a run ends.
        longest: frames.

    Returns:
        The slope in seconds a frame, and (n,) seconds on the lines.
    """
    number = np.arange(len(timestamps))
    begins = np.concatenate([[True], breaks])
    position = number - np.maximum.accumulate(np.where(begins, number, 0))
    run = np.cumsum(begins | (position % longest == 0)) - 1
    length = np.bincount(run)
    mean_number, mean_time = (np.bincount(run, of) / length for of in (number, timestamps))
    x, y = number - mean_number[run], timestamps - mean_time[run]
    slope = float((x @ y) / (x @ x))
    return slope, mean_time[run] + slope * x


def check_times(timestamps: np.ndarray, fps: float) -> None:
    """Refuse frame rates and durations that no camera gives.

    Args:
        timestamps: (n,) seconds, ascending.
        fps: frames a second.

    Raises:
        VideoError: these are some.
    """
    if len(timestamps) < 2:
        return
    length_s = float(timestamps[-1] - timestamps[0])
    # Written so that what is no number fails.
    if not MIN_FPS <= fps <= MAX_FPS or not 0 < length_s <= MAX_LENGTH_S:
        detail = (
            f"{len(timestamps)} frames in {length_s:.3g} s at {fps:.3g} frames a second: {MIN_FPS:g} to {MAX_FPS:g} "
            f"within {MAX_LENGTH_S // 86_400} days are a video's"
        )
        raise VideoError("probe", Reason.BAD_TIMESTAMPS, detail)
