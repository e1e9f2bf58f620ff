"""What a config says of clips: which frames of a video, at which sizes."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from animatediff.config import Config
from animatediff.data.clips.camera import PANS, CameraMove

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
