"""Clips: which frames of a video, at which size."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from animatediff.config import Config
from animatediff.data.windows import back_to_back, draw, spread

_STRIDE = 4
_Pixels = Annotated[int, Field(ge=8, multiple_of=8)]
_Ratio = Annotated[float, Field(ge=0.2, le=5)]


class ClipConfig(Config):
    """How clips are cut. It decides the latents, so it is part of a dataset's key."""

    num_frames: int = Field(16, ge=1)
    """Frames in a clip, the reference's 16."""
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Further numbers of frames: a video takes the longest that it has room for."""
    stride: int = Field(_STRIDE, ge=1)
    """Distance of neighbouring frames in source frames, the reference's 4 (about 8 fps of a WebVid video)."""
    fps: float | None = Field(None, gt=0)
    """Frames per second of the source's time, in place of `stride`: videos of all frame rates then move alike."""
    height: _Pixels = 256
    """Pixels. The short side is resized to fit, then the centre is cropped."""
    width: _Pixels = 256
    """Pixels."""
    sizes: tuple[tuple[_Pixels, _Pixels], ...] = ()
    """Further (height, width): a video takes the one whose aspect ratio is closest to its own."""
    aspect_ratios: tuple[_Ratio, ...] = ()
    """Further sizes of about the area `height` x `width`, by width / height: 1.78, 0.56."""
    windows: Literal["grid", "random", "all"] = "grid"
    """grid: spread evenly from start to end. random: drawn. all: back to back, without overlap."""
    windows_per_video: int | None = Field(None, ge=1)
    """Most clips cut from one video, fewer where they would coincide. Default 1, for `windows: all` no limit."""
    seed: int = Field(0, ge=0)
    """Of random windows, together with the video's id."""
    flip: bool = False
    """Store each window mirrored as well, as a clip of its own. Mirrored writing is wrong writing."""

    @model_validator(mode="after")
    def _one_rate(self) -> "ClipConfig":
        if self.fps is not None and self.stride != _STRIDE:
            raise ValueError(f"fps {self.fps:g} and stride {self.stride} both set the frame rate: remove one of them")
        return self

    @property
    def bucket(self) -> str:
        """Name of the shape that clips have where no further one is given."""
        return bucket_name(self.num_frames, self.height, self.width)

    @property
    def all_lengths(self) -> list[int]:
        """Every number of frames that a clip may have, the longest first."""
        return sorted({self.num_frames, *self.lengths}, reverse=True)

    @property
    def all_sizes(self) -> list[tuple[int, int]]:
        """Every (height, width) that a clip may have, without repetition."""
        # Sides divide as those of the first size do: Stable Diffusion's U-Net wants multiples of 64 pixels.
        grid = math.gcd(self.height, self.width, 64)
        equal = [_of_area(self.height * self.width, ratio, grid) for ratio in self.aspect_ratios]
        return list(dict.fromkeys([(self.height, self.width), *self.sizes, *equal]))


def _of_area(area: int, ratio: float, grid: int) -> tuple[int, int]:
    """(height, width) of about `area` and width / height `ratio`, both multiples of `grid`."""
    height, width = math.sqrt(area / ratio), math.sqrt(area * ratio)
    return max(grid, round(height / grid) * grid), max(grid, round(width / grid) * grid)


def bucket_name(num_frames: int, height: int, width: int) -> str:
    """Name of a clip's shape: frames x height x width in pixels."""
    return f"{num_frames}x{height}x{width}"


@dataclass(frozen=True)
class WindowPlan:
    """One clip to cut from a video."""

    window: int
    """Number of the clip within its video, from 0; a mirrored copy has its own, the next."""
    times: np.ndarray
    """(f,) seconds at which it shows its frames."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    flip: bool
    """Whether the frames are to be mirrored."""

    @property
    def bucket(self) -> str:
        """Name of the clip's shape."""
        return bucket_name(len(self.times), self.height, self.width)


def plan_windows(timestamps: np.ndarray, *, width: int, height: int, key: str, config: ClipConfig) -> list[WindowPlan]:
    """The clips to cut from a video. They depend on nothing but the video and the config.

    Args:
        timestamps: (n,) seconds, the start of each source frame, ascending. Their median distance is the source's
            frame duration, so a variable frame rate neither shrinks nor stretches the clip.
        width: of the source as displayed, in pixels.
        height: of the source as displayed, in pixels.
        key: the video's id, from which random windows are drawn.
        config: frames, rate, sizes and number of windows.

    Returns:
        The clips, mirrored copies behind their originals; empty when the video is too short for one.
    """
    windows = next(filter(None, (_times(timestamps, f, key, config) for f in config.all_lengths)), [])
    clip_height, clip_width = _closest_size(config.all_sizes, height=height, width=width)
    clips = [(times, flip) for times in windows for flip in ((False, True) if config.flip else (False,))]
    return [WindowPlan(i, times, clip_height, clip_width, flip) for i, (times, flip) in enumerate(clips)]


def _closest_size(sizes: Iterable[tuple[int, int]], *, height: int, width: int) -> tuple[int, int]:
    """The (height, width) whose aspect ratio is closest to the source's.

    Among equals it is the largest that needs no upscaling, or the smallest where all need it.
    """

    def order(size: tuple[int, int]) -> tuple[float, bool, int]:
        distance = abs(math.log(size[1] / size[0]) - math.log(width / height))
        upscaled = size[0] > height or size[1] > width
        area = size[0] * size[1]
        return round(distance, 6), upscaled, area if upscaled else -area

    return min(sizes, key=order)


def _times(timestamps: np.ndarray, num_frames: int, key: str, config: ClipConfig) -> list[np.ndarray]:
    """One (f,) array of seconds a window; empty when the video is too short for one."""
    if len(timestamps) < 2:
        return [timestamps] if num_frames == 1 and len(timestamps) else []
    frame = float(np.median(np.diff(timestamps)))
    step = 1 / config.fps if config.fps else frame * config.stride
    # Half a frame's tolerance: container timestamps are rounded to the stream's time base.
    last = timestamps[-1] - step * (num_frames - 1) + frame / 2
    # Windows start on frames, or constant-rate clips would jitter by one.
    possible = timestamps[: np.searchsorted(timestamps, last, side="right")]
    if config.windows == "all":
        # The same tolerance; at more frames a second than the source has, half a step is less.
        starts = back_to_back(possible, step * num_frames - min(frame, step) / 2)[: config.windows_per_video]
    elif config.windows == "random":
        starts = draw(possible, config.windows_per_video or 1, key=key, seed=config.seed)
    else:
        starts = spread(possible, config.windows_per_video or 1)
    return [start + step * np.arange(num_frames) for start in starts]


def frames_at(timestamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Indices of the frames on screen at `times`: the last that has started, or is about to within rounding."""
    # Not half a frame, or sampling at 2.5 frames would round now up and now down.
    tolerance = 0.45 * float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 0.0
    return np.clip(np.searchsorted(timestamps, times + tolerance, side="right") - 1, 0, len(timestamps) - 1)


def fit(frame: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Resize the short side and crop the centre, in one antialiased step.

    Args:
        frame: (h w 3) uint8.
        height: pixels of the result.
        width: pixels of the result.
    """
    source_height, source_width = frame.shape[:2]
    scale = min(source_height / height, source_width / width)
    crop_height, crop_width = height * scale, width * scale
    left, top = (source_width - crop_width) / 2, (source_height - crop_height) / 2
    box = (left, top, left + crop_width, top + crop_height)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box=box))


def motion_score(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring frames, in [0, 1]; 0 is a still picture.

    Args:
        frames: (f h w 3) uint8.
    """
    if len(frames) < 2:
        return 0.0
    # In uint8 throughout: four times as fast as with a wider type.
    difference = np.maximum(frames[1:], frames[:-1]) - np.minimum(frames[1:], frames[:-1])
    return float(difference.mean(dtype=np.float64) / 255.0)
