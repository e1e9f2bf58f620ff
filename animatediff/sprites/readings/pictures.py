"""What a picture of the sprite world shows, read back from its pixels: the ground truth of generated frames.

The subject's mask gives shape and pose. That shape is then drawn there in every style, with the colours that come
closest to the picture: the style that errs least is the picture's, and the colours it took are the picture's too. What
cannot be said is None.

The thresholds were set on moments of clips, 64 pixels a side, 1,800 of each style: "rendered" as they are, "mild" with
a blur of 0.6 pixels and noise of 4 of 255, as a good autoencoder leaves them; and on 800 "coded" by H.264, whose
coarser chroma costs small shapes as bright as their background most.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from animatediff.sprites.readings.look import fit_look
from animatediff.sprites.readings.shape import fit_shape
from animatediff.sprites.readings.subject import find_subject
from animatediff.sprites.scenes.world import BACKGROUNDS, COLOURS, SIZES, Pose, Rgb, Scene

# In RGB; the two nearest colours are 78 apart, the two nearest backgrounds 59. Half way between them the ratio is 1.
_FARTHEST_COLOUR = 50.0
_MOST_COLOUR_RATIO = 0.75
# `Reading.size` is not said of what is smaller or larger than the world's own by more.
_SMALLEST, _LARGEST = 0.8 * min(SIZES.values()), 1.25 * max(SIZES.values())


@dataclass(frozen=True)
class Reading:
    """What one picture shows; None is what cannot be said, and so wrong.

    Attributes:
        shape: a key of `OUTLINES`.
        colour: a key of the colours that `read` was given.
        background: a key of `BACKGROUNDS`; of cel's paper, the one it is a paler kind of. Always None in the chalk
            style, which shows its blackboard whatever the background was to be: do not score it there.
        style: a key of `STYLES`.
        pose: of the single subject, its angle in [0, a full turn / the shape's symmetry); None if there is not one.
    """

    shape: str | None = None
    colour: str | None = None
    background: str | None = None
    style: str | None = None
    pose: Pose | None = None

    @property
    def size(self) -> str | None:
        """The key of `SIZES` whose radius is nearest by ratio."""
        if self.pose is None or not _SMALLEST <= self.pose.radius <= _LARGEST:
            return None
        radius = self.pose.radius
        return min(SIZES, key=lambda size: abs(math.log(radius / SIZES[size])))


@dataclass(frozen=True)
class Attributes:
    """Which of a scene's attributes a picture shows as its caption says."""

    shape: bool
    colour: bool
    size: bool
    background: bool


def matches(reading: Reading, scene: Scene) -> Attributes:
    """Compare a still's reading with its scene. The size means nothing in clips that grow or shrink."""
    return Attributes(
        shape=reading.shape == scene.shape,
        colour=reading.colour == scene.colour,
        size=reading.size == scene.size,
        background=reading.background == scene.background,
    )


def read(frame: np.ndarray, *, colours: Mapping[str, Rgb] = COLOURS) -> Reading:
    """Read one picture.

    Args:
        frame: (h w 3) uint8 RGB, best 64 pixels high and wide.
        colours: the names that the subject's colour may have.

    Raises:
        ValueError: not such a picture, or no colours.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise ValueError(f"a picture must be (h w 3) uint8, not {frame.shape} {frame.dtype}")
    pixels = frame.astype(float)
    mask = find_subject(pixels)
    if mask is None:
        return Reading()
    shape, pose, is_sure = fit_shape(mask)
    known_shape = shape if is_sure else None
    look = fit_look(pixels, shape, pose)
    if look is None:
        return Reading(shape=known_shape, pose=pose)
    background = None if look.background is None else _name(look.background, BACKGROUNDS)
    return Reading(known_shape, _name(look.colour, colours), background, look.style, pose)


def _name(rgb: np.ndarray, names: Mapping[str, Rgb]) -> str | None:
    """Return the nearest name, unless it is far or another is about as near."""
    if not names:
        raise ValueError("there must be at least one colour to name")
    nearest, *others = sorted((math.dist(rgb, named), name) for name, named in names.items())
    is_clear = not others or nearest[0] <= _MOST_COLOUR_RATIO * others[0][0]
    return nearest[1] if is_clear and nearest[0] <= _FARTHEST_COLOUR else None
