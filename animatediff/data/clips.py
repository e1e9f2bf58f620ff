"""Clips: which frames of a video, at which size."""

import numpy as np
from PIL import Image
from pydantic import Field

from animatediff.config import Config


class ClipConfig(Config):
    """How clips are cut. It decides the latents, so it is part of a dataset's key."""

    num_frames: int = Field(16, ge=1)
    """Frames in a clip, the reference's 16."""
    stride: int = Field(4, ge=1)
    """Distance of neighbouring frames in source frames, the reference's 4 (about 8 fps of a WebVid video)."""
    height: int = Field(256, ge=8, multiple_of=8)
    """Pixels. The short side is resized to fit, then the centre is cropped."""
    width: int = Field(256, ge=8, multiple_of=8)
    """Pixels."""
    windows_per_video: int = Field(1, ge=1)
    """Clips cut from one video, spread evenly from its start to its end; fewer where they would coincide."""

    @property
    def bucket(self) -> str:
        """Name of the shape all clips of this config have: frames x height x width in pixels."""
        return f"{self.num_frames}x{self.height}x{self.width}"


def clip_times(timestamps: np.ndarray, config: ClipConfig) -> list[np.ndarray]:
    """The times at which each window shows its frames.

    Args:
        timestamps: (n,) seconds, the start of each source frame, ascending. Their median distance is the source's
            frame duration, so a variable frame rate neither shrinks nor stretches the clip.
        config: frames, stride and number of windows.

    Returns:
        One (f,) array of seconds a window; empty when the video is too short for one.
    """
    if len(timestamps) < 2:
        return [timestamps] if config.num_frames == 1 and len(timestamps) else []
    step = float(np.median(np.diff(timestamps))) * config.stride
    length = step * (config.num_frames - 1)
    # Half a frame's tolerance: container timestamps are rounded to the stream's time base.
    tolerance = step / config.stride / 2
    # Windows start on frames, or constant-rate clips would jitter by one.
    num_starts = int(np.searchsorted(timestamps, timestamps[-1] - length + tolerance, side="right"))
    starts = np.unique(np.linspace(0, num_starts - 1, min(config.windows_per_video, num_starts)).round().astype(int))
    return [timestamps[start] + step * np.arange(config.num_frames) for start in starts]


def frames_at(timestamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Indices of the frames on screen at `times`: the last frame that has started, half a frame's rounding allowed."""
    tolerance = float(np.median(np.diff(timestamps))) / 2 if len(timestamps) > 1 else 0.0
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
    return float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean() / 255.0)
