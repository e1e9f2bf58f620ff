"""Which clips are cut from a video: the times of their frames, their sizes, their crops."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from animatediff.data.clips.camera import crop_boxes
from animatediff.data.clips.config import ClipConfig, bucket_name
from animatediff.data.clips.rates import fit_rate
from animatediff.data.clips.start_times import back_to_back_starts, evenly_spaced_starts, random_starts


class ResolutionSpan(NamedTuple):
    """Frames of one size that follow each other in a video."""

    first_frame: int
    """Index of its first frame in the video."""
    width: int
    """Pixels as displayed."""
    height: int
    """Pixels."""


@dataclass(frozen=True)
class ClipPlan:
    """One clip to cut from a video."""

    index: int
    """Of the clip within its video, from 0; a mirrored copy has its own, the next."""
    times: np.ndarray
    """(f,) seconds at which it shows its frames."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    flip: bool
    """Whether the frames are to be mirrored."""
    span_index: int
    """Index of the resolution span that it is cut from."""
    crop_boxes: np.ndarray | None = None
    """(f, 4) x, y, w, h in pixels of the source: what each frame is cropped to. None: to the centre."""

    @property
    def bucket(self) -> str:
        """Name of the clip's shape."""
        return bucket_name(len(self.times), self.height, self.width)


def plan_clips(
    timestamps: np.ndarray, spans: Sequence[ResolutionSpan], *, video_id: str, config: ClipConfig
) -> list[ClipPlan]:
    """Return the clips to cut from a video. They depend on nothing but the video and the config.

    Args:
        timestamps: (n,) seconds, the start of each source frame, ascending. The rate that is fitted to them gives the
            source's frame duration, so a variable frame rate neither shrinks nor stretches the clip.
        spans: of the source, at least one: a clip holds frames of one.
        video_id: random start times are drawn from it.
        config: frames, rate, sizes and number of clips.

    Returns:
        The clips, mirrored copies behind their originals; empty when the video is too short for one.
    """
    first_frames = [span.first_frame for span in spans]
    span_of_frame = np.searchsorted(first_frames, np.arange(len(timestamps)), side="right") - 1
    last_frames = (np.array([*first_frames[1:], len(timestamps)]) - 1)[span_of_frame]
    plans: list[ClipPlan] = []
    for times in _times_of_first_length_that_fits(timestamps, last_frames, video_id, config):
        span_index = int(span_of_frame[np.searchsorted(timestamps, times[0])])
        span = spans[span_index]
        size = _closest_size(config.all_sizes, height=span.height, width=span.width)
        boxes = _camera_boxes(config, len(times), size, span)
        for flip in (False, True) if config.flip else (False,):
            plans.append(ClipPlan(len(plans), times, *size, flip, span_index, boxes))
    return plans


def _camera_boxes(
    config: ClipConfig, num_frames: int, size: tuple[int, int], span: ResolutionSpan
) -> np.ndarray | None:
    """Return (f, 4) what the config's camera move crops each frame to; None where there is no move."""
    if config.camera is None:
        return None
    source = (span.height, span.width)
    return crop_boxes(config.camera, num_frames, size=size, source=source, travel=config.camera_travel)


def _closest_size(sizes: Iterable[tuple[int, int]], *, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) whose aspect ratio is closest to the source's.

    Among equals it is the largest that needs no upscaling, or the smallest where all need it.
    """

    def order(size: tuple[int, int]) -> tuple[float, bool, int]:
        distance = abs(math.log(size[1] / size[0]) - math.log(width / height))
        upscaled = size[0] > height or size[1] > width
        area = size[0] * size[1]
        return round(distance, 6), upscaled, area if upscaled else -area

    return min(sizes, key=order)


def _times_of_first_length_that_fits(
    timestamps: np.ndarray, last_frames: np.ndarray, video_id: str, config: ClipConfig
) -> list[np.ndarray]:
    """Return (f,) seconds of each clip's frames, with the first f of `config.all_lengths` that there is room for."""
    for num_frames in config.all_lengths:
        if clips := _frame_times(timestamps, last_frames, num_frames, video_id, config):
            return clips
    return []


def _frame_times(
    timestamps: np.ndarray, last_frames: np.ndarray, num_frames: int, video_id: str, config: ClipConfig
) -> list[np.ndarray]:
    """Return (f,) seconds of each clip's frames.

    Args:
        timestamps: (n,) seconds.
        last_frames: (n,) of each frame, the index of the last one of its resolution span.
        num_frames: f.
        video_id: as in `plan_clips`.
        config: likewise.

    Returns:
        No clip where there is no room for one.
    """
    if len(timestamps) < 2:
        return [timestamps] if num_frames == 1 and len(timestamps) else []
    frame = fit_rate(timestamps).frame_s
    step = 1 / config.fps if config.fps else frame * config.stride
    # Half a frame's tolerance: container timestamps are rounded to the stream's time base.
    # Clips start on frames, or constant-rate clips would jitter by one.
    possible = timestamps[timestamps <= timestamps[last_frames] - step * (num_frames - 1) + frame / 2]
    if config.windows == "all":
        # The same tolerance; at more frames a second than the source has, half a step is less.
        starts = back_to_back_starts(possible, step * num_frames - min(frame, step) / 2)[: config.windows_per_video]
    elif config.windows == "random":
        starts = random_starts(possible, config.windows_per_video or 1, key=video_id, seed=config.seed)
    else:
        starts = evenly_spaced_starts(possible, config.windows_per_video or 1)
    return [start + step * np.arange(num_frames) for start in starts]


def frame_indices_at(timestamps: np.ndarray, times: np.ndarray, *, frame_s: float | None = None) -> np.ndarray:
    """Return the indices of the frames on screen at `times`: the last that has started, or is about to within rounding.

    Args:
        timestamps: (n,) seconds, ascending.
        times: (f,) seconds.
        frame_s: seconds that a frame lasts; fitted to the timestamps where it is not given.
    """
    # Not half a frame, or sampling at 2.5 frames would round now up and now down.
    tolerance = 0.45 * (fit_rate(timestamps).frame_s if frame_s is None else frame_s)
    return np.clip(np.searchsorted(timestamps, times + tolerance, side="right") - 1, 0, len(timestamps) - 1)
