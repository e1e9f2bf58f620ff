"""The sprite world's pictures, drawn with numpy in one of three styles.

The plain style is what the base model is trained on; the others are what personalised checkpoints are trained on.
Lengths are in fractions of the picture's short side.
"""

from collections.abc import Callable

import numpy as np

from animatediff.sprites.scenes.shapes import OUTLINES, coverage
from animatediff.sprites.scenes.world import BACKGROUNDS, COLOURS, Pose, Rgb, Scene, pose

SAMPLE_SIZE = 64
"""Pixels a side of the pictures that the models are made for."""

_INK = np.array((22.0, 18.0, 30.0))
_BOARD = np.array((36.0, 58.0, 50.0))
_WHITE = np.array((255.0, 255.0, 255.0))
_LINE = 0.036  # a line is 2.3 pixels of 64
_SHADE = 0.68  # of the light side's brightness
_HATCH_PERIOD = 0.125  # 8 pixels of 64

Mask = Callable[[float], np.ndarray]
"""How far inside the outline -> how much of each pixel lies further inside than that, (h w 1) in [0, 1]."""
Picture = np.ndarray
"""(h w 3) float64 RGB in [0, 255]."""


def render(scene: Scene, *, num_frames: int, height: int, width: int, style: str = "plain") -> np.ndarray:
    """Draw the clip, antialiased.

    Args:
        scene: what to draw.
        num_frames: at least 1; spread evenly over the time from 0 to 1, both included. One frame shows time 0.
        height: of the picture in pixels.
        width: of the picture in pixels.
        style: a key of `STYLES`.

    Returns:
        (f h w 3) uint8 RGB.
    """
    if min(num_frames, height, width) < 1:
        raise ValueError(f"num_frames, height and width must be positive, not {num_frames}, {height}, {width}")
    colour, background = COLOURS[scene.colour], BACKGROUNDS[scene.background]
    poses = [pose(scene, float(time)) for time in np.linspace(0.0, 1.0, num_frames)]
    return np.stack([draw(scene.shape, colour, background, at, height, width, style) for at in poses])


def draw(
    shape: str, colour: Rgb, background: Rgb, at: Pose, height: int, width: int, style: str = "plain"
) -> np.ndarray:
    """Draw one frame, of any colours.

    Args:
        shape: a key of `OUTLINES`.
        colour: of the shape.
        background: behind it; the chalk style draws on its blackboard instead.
        at: where the shape is.
        height: of the picture in pixels.
        width: of the picture in pixels.
        style: a key of `STYLES`.

    Returns:
        (h w 3) uint8 RGB.
    """

    def mask(inset: float) -> np.ndarray:
        centre = (at.x, at.y)
        return coverage(
            OUTLINES[shape],
            centre=centre,
            radius=at.radius,
            angle=at.angle,
            height=height,
            width=width,
            inset=inset,
        )[..., None]

    # How far each pixel's centre lies to the lower right of the shape's, in short sides.
    across, down = (np.arange(width) + 0.5 - width / 2), (np.arange(height) + 0.5 - height / 2)
    slant = (across + down[:, None])[..., None] / (min(height, width) * 2**0.5) - (at.x + at.y) / 2**0.5
    picture: Picture = STYLES[style](mask, slant, np.array(colour, float), np.array(background, float))
    return picture.round().astype(np.uint8)


def _plain(mask: Mask, slant: np.ndarray, colour: np.ndarray, background: np.ndarray) -> Picture:
    """Flat colour on flat colour."""
    picture: Picture = _over(background, mask(0.0), colour)
    return picture


def _cel(mask: Mask, slant: np.ndarray, colour: np.ndarray, background: np.ndarray) -> Picture:
    """Draw an animator's cel.

    An ink outline, two flat tones, and a paler background, so that the ink shows on black too.
    """
    tones = np.where(slant > 0.02, _SHADE * colour, colour)
    paper = _over(background, np.array(0.45), _WHITE)
    picture: Picture = _over(_over(paper, mask(0.0), _INK), mask(_LINE), tones)
    return picture


def _chalk(mask: Mask, slant: np.ndarray, colour: np.ndarray, background: np.ndarray) -> Picture:
    """Draw a pale line and hatching on a blackboard, whatever the background was to be."""
    chalk = _over(colour, np.array(0.25), _WHITE)
    stripes = 0.5 + 0.5 * np.cos(slant * (2 * np.pi / _HATCH_PERIOD))
    hatched = _over(_BOARD, 0.25 + 0.35 * stripes, chalk)
    picture: Picture = _over(_over(_BOARD, mask(0.0), chalk), mask(_LINE), hatched)
    return picture


def _over(below: np.ndarray, alpha: np.ndarray, above: np.ndarray) -> Picture:
    picture: Picture = below + alpha * (above - below)
    return picture


STYLES: dict[str, Callable[[Mask, np.ndarray, np.ndarray, np.ndarray], Picture]] = {
    "plain": _plain,
    "cel": _cel,
    "chalk": _chalk,
}
