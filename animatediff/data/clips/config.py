"""Clips: which frames of a video, at which size."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from animatediff.config import Config
from animatediff.data.clips.camera import PANS, CameraMove, crop_boxes
from animatediff.data.clips.rates import fit_rate
from animatediff.data.clips.windows import back_to_back, draw, spread

_STRIDE = 4
_TRAVEL = 0.25
_Pixels = Annotated[int, Field(ge=8)]
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
    """Seed of random windows, which also depend on the video's id."""
    flip: bool = False
    """Store each window mirrored as well, as a clip of its own. Mirrored writing is wrong writing."""
    camera: CameraMove | None = None
    """Crop each clip so that it looks filmed by a camera that zooms, pans or tilts, to train a MotionLoRA on. What each
    move is stands at `camera.crop_boxes`. The video's own camera moves are seen as well."""
    camera_travel: float = Field(_TRAVEL, gt=0, le=0.5)
    """How far, in shares of the crop: a pan slides it by so much of its width, a tilt by so much of its height, and a
    zoom takes so much off its sides. Half is the most, as what is cropped away is missing in resolution."""

    @model_validator(mode="after")
    def _one_rate(self) -> "ClipConfig":
        if self.fps is not None and self.stride != _STRIDE:
            raise ValueError(f"fps {self.fps:g} and stride {self.stride} both set the frame rate: remove one of them")
        return self

    @model_validator(mode="after")
    def _camera_is_whole(self) -> "ClipConfig":
        if self.flip and self.camera in PANS:
            raise ValueError(f"flip would mirror {self.camera} into its opposite: set flip to false")
        if self.camera is None and self.camera_travel != _TRAVEL:
            raise ValueError(f"camera_travel {self.camera_travel:g} is set, but no camera move: add camera")
        return self

    @model_serializer(mode="wrap")
    def _without_unset_camera(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Datasets from before there were camera moves keep their keys.
        fields: dict[str, Any] = handler(self)
        return {k: v for k, v in fields.items() if self.camera or not k.startswith("camera")}

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
    """Return the name of a clip's shape, frames x height x width in pixels, as `16x256x256`."""
    return f"{num_frames}x{height}x{width}"


class Run(NamedTuple):
    """Frames of one size that follow each other in a video."""

    first: int
    """Number of its first frame."""
    width: int
    """Pixels as displayed."""
    height: int
    """Pixels."""


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
    run: int
    """Number of the run of one size that it is cut from."""
    boxes: np.ndarray | None = None
    """(f, 4) x, y, w, h in pixels of the source: what each frame is cropped to. None: to the centre."""

    @property
    def bucket(self) -> str:
        """Name of the clip's shape."""
        return bucket_name(len(self.times), self.height, self.width)


def plan_windows(timestamps: np.ndarray, runs: Sequence[Run], *, key: str, config: ClipConfig) -> list[WindowPlan]:
    """Return the clips to cut from a video. They depend on nothing but the video and the config.

    Args:
        timestamps: (n,) seconds, the start of each source frame, ascending. The rate that is fitted to them gives the
            source's frame duration, so a variable frame rate neither shrinks nor stretches the clip.
        runs: of the source, at least one: a clip holds frames of one.
        key: the video's id, from which random windows are drawn.
        config: frames, rate, sizes and number of windows.

    Returns:
        The clips, mirrored copies behind their originals; empty when the video is too short for one.
    """
    run_of = np.searchsorted([run.first for run in runs], np.arange(len(timestamps)), side="right") - 1
    lasts = np.array([*(run.first for run in runs[1:]), len(timestamps)]) - 1
    windows = next(filter(None, (_times(timestamps, lasts[run_of], f, key, config) for f in config.all_lengths)), [])
    plans: list[WindowPlan] = []
    for times in windows:
        number = int(run_of[np.searchsorted(timestamps, times[0])])
        run = runs[number]
        size = _closest_size(config.all_sizes, height=run.height, width=run.width)
        boxes = None
        if config.camera:
            source = (run.height, run.width)
            boxes = crop_boxes(config.camera, len(times), size=size, source=source, travel=config.camera_travel)
        for flip in (False, True) if config.flip else (False,):
            plans.append(WindowPlan(len(plans), times, *size, flip, number, boxes))
    return plans


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


def _times(
    timestamps: np.ndarray, lasts: np.ndarray, num_frames: int, key: str, config: ClipConfig
) -> list[np.ndarray]:
    """One (f,) array of seconds a window; empty when there is no room for one before the `lasts` of all frames."""
    if len(timestamps) < 2:
        return [timestamps] if num_frames == 1 and len(timestamps) else []
    frame = fit_rate(timestamps).frame_s
    step = 1 / config.fps if config.fps else frame * config.stride
    # Half a frame's tolerance: container timestamps are rounded to the stream's time base.
    # Windows start on frames, or constant-rate clips would jitter by one.
    possible = timestamps[timestamps <= timestamps[lasts] - step * (num_frames - 1) + frame / 2]
    if config.windows == "all":
        # The same tolerance; at more frames a second than the source has, half a step is less.
        starts = back_to_back(possible, step * num_frames - min(frame, step) / 2)[: config.windows_per_video]
    elif config.windows == "random":
        starts = draw(possible, config.windows_per_video or 1, key=key, seed=config.seed)
    else:
        starts = spread(possible, config.windows_per_video or 1)
    return [start + step * np.arange(num_frames) for start in starts]


def frames_at(timestamps: np.ndarray, times: np.ndarray, *, frame_s: float | None = None) -> np.ndarray:
    """Return the indices of the frames on screen at `times`: the last that has started, or is about to within rounding.

    Args:
        timestamps: (n,) seconds, ascending.
        times: (f,) seconds.
        frame_s: seconds that a frame lasts; fitted to the timestamps where it is not given.
    """
    # Not half a frame, or sampling at 2.5 frames would round now up and now down.
    tolerance = 0.45 * (fit_rate(timestamps).frame_s if frame_s is None else frame_s)
    return np.clip(np.searchsorted(timestamps, times + tolerance, side="right") - 1, 0, len(timestamps) - 1)


def fit(frame: np.ndarray, *, height: int, width: int, crop: np.ndarray | None = None) -> np.ndarray:
    """Crop and resize, in one antialiased step that knows fractions of a pixel.

    Args:
        frame: (h w 3) uint8.
        height: pixels of the result.
        width: pixels of the result.
        crop: (4,) x, y, w, h in shares of the frame's sides; None is the largest in the centre.
    """
    box = _centre(frame, height=height, width=width) if crop is None else _box(frame, crop)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box=box))


def _centre(frame: np.ndarray, *, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest crop with such sides, in the frame's centre."""
    source_height, source_width = frame.shape[:2]
    scale = min(source_height / height, source_width / width)
    crop_height, crop_width = height * scale, width * scale
    left, top = (source_width - crop_width) / 2, (source_height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def _box(frame: np.ndarray, crop: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a crop that is told in shares of the frame's sides."""
    height, width = frame.shape[:2]
    x, y, w, h = (crop * [width, height, width, height]).tolist()
    # One that reaches the border may lie beyond it by a rounding error.
    return max(0.0, x), max(0.0, y), min(width, x + w), min(height, y + h)


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
