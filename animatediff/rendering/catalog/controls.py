"""What a catalog says of controls: networks and image adapters, with the pictures or videos that they are shown."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from animatediff import storage
from animatediff.config import Config
from animatediff.diffusion.frame_numbers import frames_in_clip
from animatediff.uris import Uri

FileUri = Annotated[Uri, Field(min_length=1), AfterValidator(storage.absolute_if_there)]
"""A file or folder, local or at a URI; a relative path counts from where the job is started."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
_ScaleForm = Literal["a number", "numbers by frame"]


def _no_list(value: Any) -> Any:
    """Refuse a list of scales, one a frame, as other tools have it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        raise ValueError(f"one number is needed, or numbers by frame, such as {{0: 1, 15: 0.2}} (got {value!r})")
    return value


def _form_of_scale(value: Any) -> _ScaleForm:
    return "numbers by frame" if isinstance(value, Mapping) else "a number"


Scale = Annotated[
    Annotated[Finite, Tag("a number")] | Annotated[dict[int, Finite], Tag("numbers by frame")],
    Discriminator(_form_of_scale),
    BeforeValidator(_no_list),
]
"""One for all frames, or by frame."""


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


Pictures = Annotated[tuple[FileUri, ...], BeforeValidator(_as_tuple)]
"""In a file: one, or a list."""
Frames = Annotated[tuple[int, ...], BeforeValidator(_as_tuple)]
"""Frames by number from 0, negative ones from the end."""

NOT_KEPT = "keep is of SparseCtrl encoders of pictures (RGB), whose pictures are frames of the clip: leave it away"
"""What is wrong with `keep` of any other network."""


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
    scale: Scale = 1.0
    """Strength; by frame, such as `{0: 1, 15: 0.2}`, it goes evenly from one to the next."""
    start: float = Field(0.0, ge=0, le=1)
    """Share of the steps before which it is off."""
    end: float = Field(1.0, ge=0, le=1)
    """Share of the steps after which it is off."""
    guess_mode: bool = False
    """Whether it leads the clip whatever the prompt says: the negative branch is without it, and its early layers
    count less."""
    global_pool_conditions: bool | None = None
    """Whether a ControlNet's layers have one value for the whole frame, as the shuffle ControlNet's do, which implies
    `guess_mode`; default: what the `config.json` of a diffusers folder says."""
    keep: bool = False
    """Whether the frames that a SparseCtrl encoder of pictures (RGB) is given are those pictures in the clip, too, put
    back at each denoising step. Else they are led towards them, and may drift."""
    preprocess: str = "none"
    """What is made of the pictures first: a name of `rendering.conditions.preprocessing`, or a function of yours as
    package.module:function."""

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        if bool(self.pictures) == (self.video is not None):
            raise ValueError("a control needs `pictures` or a `video`, and not both")
        if self.video and self.frames:
            raise ValueError("`frames` says where pictures go; a video has a picture for every frame: leave them away")
        _check_frames(self.pictures, self.frames)
        if self.start > self.end:
            raise ValueError(f"start {self.start:g} is after end {self.end:g}")
        if isinstance(self.scale, Mapping) and not self.scale:
            raise ValueError("scale: at least one frame is needed")
        return self

    def __hash__(self) -> int:
        """Return the same for equal ones, a mapping of scales included: items with equal controls share batches."""
        return hash(self.model_dump_json())

    def scales(self, num_frames: int) -> list[float]:
        """Return each frame's strength.

        Raises:
            ValueError: a frame is named that is not in the clip.
        """
        if not isinstance(self.scale, Mapping):
            return [self.scale] * num_frames
        frames = frames_in_clip(list(self.scale), num_frames)
        return _between(dict(zip(frames, self.scale.values(), strict=True)), num_frames)

    def frames_of(self, num_pictures: int, num_frames: int, *, is_sparse: bool) -> list[int]:
        """Return the frame of each picture, from 0; of one for every frame, all frames.

        Args:
            num_pictures: how many there are, in the folder where one is named.
            num_frames: of the clip.
            is_sparse: whether the network is a SparseCtrl encoder, which knows frames without a picture.

        Raises:
            ValueError: a frame is not in the clip, or there are more or fewer pictures than frames.
        """
        if self.frames:
            _check_one_picture_a_frame(num_pictures, self.frames)
            return frames_in_clip(self.frames, num_frames)
        if num_pictures == 1:
            return [0] if is_sparse else list(range(num_frames))
        if num_pictures < num_frames:
            raise ValueError(
                f"{num_pictures} pictures are too few for {num_frames} frames: say which they are for, as `frames:`"
            )
        return list(range(num_frames))


class ImageSpec(Config):
    """An IP-Adapter, and the pictures whose subject or style it takes over."""

    adapter: FileUri
    """The adapter's file."""
    pictures: Pictures = Field(min_length=1)
    """One, several that count together, or one folder of them, in the order of their names."""
    frames: Frames = ()
    """The frames that the pictures are for, one each; between two of them, one picture goes over into the next.
    Default: all pictures for every frame."""
    scale: Finite = 1.0
    """Strength beside the text; 0 leaves it out."""
    mask: FileUri | None = None
    """A picture: where it is white, the adapter counts; where black, it does not."""

    @model_validator(mode="after")
    def _one_frame_each(self) -> Self:
        _check_frames(self.pictures, self.frames)
        return self

    def frames_of(self, num_pictures: int, num_frames: int) -> list[int]:
        """Return the frame of each picture, from 0; none where all pictures are for every frame.

        Args:
            num_pictures: how many there are, in the folder where one is named.
            num_frames: of the clip.

        Raises:
            ValueError: a frame is not in the clip, or there are more or fewer pictures than frames.
        """
        _check_one_picture_a_frame(num_pictures, self.frames)
        return frames_in_clip(self.frames, num_frames)


_SIMILARITIES: dict[str, tuple[float, ...]] = {
    "small": (1.0, 0.9, 0.85, 0.85, 0.85, 0.8),
    "medium": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75),
    "large": (1.0, 0.8, *[0.7] * 8, 0.6, 0.5),
    "style_small": (0.5, 0.4, 0.4, 0.4, 0.35, 0.3),
    "style_medium": (0.5, 0.4, 0.4, 0.4, 0.35, 0.35, 0.3, 0.25, 0.2),
    "style_large": (0.5, 0.2),
}
"""PIA's own: the similarity of frames by their distance from the picture's, the last number of all further ones.
Source: `RANGE_LIST` in open-mmlab/PIA, `animatediff/utils/util.py`."""


class PiaSpec(Config):
    """The picture that PIA's motion module animates."""

    picture: FileUri
    """It is cropped in the middle to the clip's shape, and resized."""
    frame: int = 0
    """The frame that it is; negative ones count from the end."""
    motion: Literal["small", "medium", "large", "style_small", "style_medium", "style_large"] = "medium"
    """How far the frames go from the picture; with `style_` they take over the prompt's style, too."""

    def similarities(self, num_frames: int, *, loop: bool) -> list[float]:
        """Return each frame's similarity to the picture, in [0, 1].

        Args:
            num_frames: of the clip.
            loop: whether the clip's last frame goes over into the first: the shorter way around counts then.

        Raises:
            ValueError: the picture's frame is not in the clip.
        """
        (own,) = frames_in_clip((self.frame,), num_frames)
        distances = [abs(frame - own) for frame in range(num_frames)]
        if loop:
            distances = [min(distance, num_frames - distance) for distance in distances]
        by_distance = _SIMILARITIES[self.motion]
        return [by_distance[min(distance, len(by_distance) - 1)] for distance in distances]


def _check_frames(pictures: Sequence[str], frames: Sequence[int]) -> None:
    """Refuse another number of frames than of pictures; one name may be a folder's."""
    if len(frames) not in (0, len(pictures)) and len(pictures) != 1:
        raise ValueError(f"{len(pictures)} pictures need as many `frames`, not {len(frames)}")


def _check_one_picture_a_frame(num_pictures: int, frames: Sequence[int]) -> None:
    if frames and num_pictures != len(frames):
        raise ValueError(f"{num_pictures} pictures do not go to {len(frames)} `frames`: name one for each")


def _between(keys: Mapping[int, float], num_frames: int) -> list[float]:
    """Return a number a frame: linear between the keys, held before the first and after the last."""
    points = sorted(keys.items())
    found = []
    for frame in range(num_frames):
        before = [point for point in points if point[0] <= frame] or points[:1]
        after = [point for point in points if point[0] >= frame] or points[-1:]
        (first, low), (last, high) = before[-1], after[0]
        found.append(low if first == last else low + (high - low) * (frame - first) / (last - first))
    return found
