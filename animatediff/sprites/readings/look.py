"""In which style and which colours a shape is drawn: of all styles' drawings of it, the closest to the picture.

How its thresholds were measured is told in `pictures`.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from animatediff.sprites.scenes.drawing import STYLES
from animatediff.sprites.scenes.shapes import OUTLINES, coverage
from animatediff.sprites.scenes.world import Pose

# Root mean square distance in RGB near the subject, but for its edge: rendered and mild at most 8. A subject half of
# one colour and half of another: at least 30 plain, 22 cel, 12 chalk, whose two colours together have no name.
_MOST_ERROR = 25.0
# Of the next style's error: rendered at most 0.43, mild 0.69, coded 0.98 (of 99 % 0.73).
_MOST_STYLE_RATIO = 0.8

_FIELD, _FIELD_RADIUS = 512, 0.4
_NEAR = 3.0  # pixels around the subject in which drawings are compared
_EDGE_WIDTH = 2.0  # pixels to each side of a drawing's edge that belong to the shape, not to its colours
# Pixels. Pictures are compared blurred, so that their noise and sharpness matter little; drawings also blurred more.
_PICTURE_BLUR, _DRAWING_BLURS = 1.0, (1.0, 1.5)


@dataclass(frozen=True)
class Look:
    """One style's closest drawing: its (3,) colours in [0, 255], and its root mean square errors in RGB.

    `error` is near the subject, edges included; `flat_error` leaves out the pixels about the drawing's edge, where a
    subject whose outline is not quite the shape's differs whatever its colours are.
    """

    style: str
    colour: np.ndarray
    background: np.ndarray | None
    error: float
    flat_error: float


def fit_look(pixels: np.ndarray, shape: str, pose: Pose) -> Look | None:
    """Return the style whose drawing comes closest to the picture; None if none comes close or two do."""
    picture = _blurred(pixels, _PICTURE_BLUR)
    distance, slant = _around(pixels.shape[:2], shape, pose)
    looks = []
    for style in STYLES:
        parts = _parts(style, distance, slant)
        fits = [_fit_colours(picture, _blurred(parts, blur), distance[..., 0], style) for blur in _DRAWING_BLURS]
        looks.append(min(fits, key=lambda look: look.error))
    best, second = sorted(looks, key=lambda look: look.error)[:2]
    is_certain = best.flat_error <= _MOST_ERROR and best.error <= _MOST_STYLE_RATIO * second.error
    return best if is_certain else None


def _blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    blurred: np.ndarray = ndimage.gaussian_filter(picture, (sigma, sigma, 0.0), truncate=3.0)
    return blurred


def _around(size: tuple[int, ...], shape: str, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's distance from the shape's edge, in pixels, negative inside; and `draw`'s slant.

    Both are (h w 1).
    """
    (height, width), short = size, min(size)
    x = (np.arange(width) + 0.5 - width / 2) / short - pose.x
    y = ((np.arange(height) + 0.5 - height / 2) / short - pose.y)[:, None]
    across = x * math.cos(pose.angle) + y * math.sin(pose.angle)
    down = y * math.cos(pose.angle) - x * math.sin(pose.angle)
    places = [(along * _FIELD_RADIUS / pose.radius + 0.5) * _FIELD - 0.5 for along in (down, across)]
    field = ndimage.map_coordinates(_distances(shape), places, order=1, mode="nearest")
    return (field * pose.radius * short)[..., None], ((x + y) / 2**0.5)[..., None]


@cache
def _distances(shape: str) -> np.ndarray:
    """Return the signed distance from the upright shape's edge, in its radii: (h w). `coverage` is slow with insets."""
    drawn = coverage(OUTLINES[shape], centre=(0.0, 0.0), radius=_FIELD_RADIUS, angle=0.0, height=_FIELD, width=_FIELD)
    outwards, inwards = (ndimage.distance_transform_edt(side) for side in (drawn <= 0.5, drawn > 0.5))
    # The transform counts from pixel to pixel; the edge runs half way between.
    distances: np.ndarray = np.where(drawn > 0.5, 0.5 - inwards, outwards - 0.5) / (_FIELD * _FIELD_RADIUS)
    return distances


def _parts(style: str, distance: np.ndarray, slant: np.ndarray) -> np.ndarray:
    """Return how much of its colour and of its background a style's drawing has; the rest is always the same.

    Returns:
        (h w 5): the colour's share, the background's share, and the rest in RGB.
    """

    def mask(inset: float) -> np.ndarray:
        return np.clip(0.5 - distance - inset * short, 0.0, 1.0)

    def paint(colour: np.ndarray, background: np.ndarray) -> np.ndarray:
        return np.broadcast_to(STYLES[style](mask, slant, colour, background), (*distance.shape[:2], 3))

    short = min(distance.shape[:2])
    nothing, one = np.zeros(3), np.ones(3)
    rest = paint(nothing, nothing)
    shares = [(paint(one, nothing) - rest)[..., :1], (paint(nothing, one) - rest)[..., :1]]
    return np.concatenate([*shares, rest], axis=-1)


def _fit_colours(picture: np.ndarray, parts: np.ndarray, distance: np.ndarray, style: str) -> Look:
    """Fit a drawing's colours by least squares over the whole picture; the errors are those near the subject."""
    shares = parts[..., :2].reshape(-1, 2)
    wanted = (picture - parts[..., 2:]).reshape(-1, 3)
    found = np.clip(np.linalg.pinv(shares.T @ shares) @ (shares.T @ wanted), 0.0, 255.0)
    errors = np.square(wanted - shares @ found).sum(axis=1).reshape(distance.shape)
    near = distance < _NEAR
    flat = near & (np.abs(distance) > _EDGE_WIDTH)
    has_background = bool(shares[:, 1].any())
    background = found[1] if has_background else None
    return Look(style, found[0], background, math.sqrt(errors[near].mean()), math.sqrt(errors[flat].mean()))
