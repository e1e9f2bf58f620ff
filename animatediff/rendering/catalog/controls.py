"""What a catalog says of controls: networks and image adapters, with the pictures or videos that they are shown."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from animatediff import storage
from animatediff.config import Config
from animatediff.uris import Uri

FileUri = Annotated[Uri, AfterValidator(storage.absolute_if_there)]
"""A file or folder, local or at a URI; a relative path counts from where the job is started."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


Pictures = Annotated[tuple[FileUri, ...], BeforeValidator(_as_tuple)]
"""In a file: one, or a list."""
Frames = Annotated[tuple[int, ...], BeforeValidator(_as_tuple)]
"""Frames by number from 0, negative ones from the end."""


class ControlSpec(Config):
    """A ControlNet or a SparseCtrl encoder, and what it is shown."""

    net: FileUri
    """The network's file or diffusers folder; what kind it is, its content tells."""
    pictures: Pictures = ()
    """One picture, several, or one folder of them, in the order of their names. They are cropped in the middle to the
    clip's shape, and resized."""
    video: FileUri | None = None
    """In place of pictures: a frame of it for each of the clip's, at the clip's rate, from its start."""
    frames: Frames = ()
    """The frames that the pictures are for, one each; other frames have none. Default: of one picture, every frame for
    a ControlNet and the first for a SparseCtrl encoder; of several, as many as the clip has frames."""
    scale: Finite | dict[int, Finite] = 1.0
    """Strength; by frame, such as `{0: 1, 15: 0.2}`, it goes evenly from one to the next."""
    start: float = Field(0.0, ge=0, le=1)
    """Share of the steps before which it is off."""
    end: float = Field(1.0, ge=0, le=1)
    """Share of the steps after which it is off."""
    guess_mode: bool = False
    """Whether it leads the clip whatever the prompt says: the negative branch is without it, and its early layers
    count less."""
    preprocess: str = "none"
    """What is made of the pictures first: a name of `rendering.preprocessing`, or a function of yours as
    package.module:function."""

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if bool(self.pictures) == (self.video is not None):
            raise ValueError("a control needs `pictures` or a `video`, and not both")
        if self.video and self.frames:
            raise ValueError("`frames` says where pictures go; a video has a picture for every frame")
        if len(self.frames) not in (0, len(self.pictures)) and len(self.pictures) != 1:
            raise ValueError(f"{len(self.pictures)} pictures need as many `frames`, not {len(self.frames)}")
        if self.start > self.end:
            raise ValueError(f"start {self.start:g} is after end {self.end:g}")
        if isinstance(self.scale, Mapping) and not self.scale:
            raise ValueError("scale: at least one frame is needed")
        return self

    def scales(self, num_frames: int) -> list[float]:
        """Return each frame's strength."""
        if not isinstance(self.scale, Mapping):
            return [self.scale] * num_frames
        return _between(self.scale, num_frames)


class ImageSpec(Config):
    """An IP-Adapter, and the pictures whose subject or style it takes over."""

    adapter: FileUri
    """The adapter's file."""
    pictures: Pictures = Field(min_length=1)
    """One, or several that count together."""
    frames: Frames = ()
    """The frames that the pictures are for, one each; between two of them, one picture goes over into the next.
    Default: all pictures for every frame."""
    scale: Finite = 1.0
    """Strength beside the text; 0 leaves it out."""
    mask: FileUri | None = None
    """A picture: where it is white, the adapter counts; where black, it does not."""

    @model_validator(mode="after")
    def _one_frame_each(self) -> Self:
        if len(self.frames) not in (0, len(self.pictures)):
            raise ValueError(f"{len(self.pictures)} pictures need as many `frames`, not {len(self.frames)}")
        return self


def _between(keys: Mapping[int, float], num_frames: int) -> list[float]:
    """Return a number a frame: linear between the keys, held before the first and after the last."""
    points = sorted((frame % num_frames if frame < 0 else frame, value) for frame, value in keys.items())
    found = []
    for frame in range(num_frames):
        before = [point for point in points if point[0] <= frame] or points[:1]
        after = [point for point in points if point[0] >= frame] or points[-1:]
        (first, low), (last, high) = before[-1], after[0]
        found.append(low if first == last else low + (high - low) * (frame - first) / (last - first))
    return found
