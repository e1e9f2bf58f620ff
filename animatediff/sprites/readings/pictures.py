"""What a picture of the sprite world shows, read back from its pixels: the ground truth of generated frames.

The subject's mask gives shape and pose. That shape is then drawn there in every style, with the colours that come
closest to the picture: the style that errs least is the picture's, and the colours it took are the picture's too. What
cannot be said is None.

The thresholds were set on moments of clips, 64 pixels a side, 1,800 of each style: "rendered" as they are, "mild" with
a blur of 0.6 pixels and noise of 4 of 255, as a good autoencoder leaves them; and on 800 "coded" by H.264, whose
coarser chroma costs small shapes as bright as their background most.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from animatediff.sprites.scenes.drawing import STYLES
from animatediff.sprites.scenes.shapes import OUTLINES, coverage
from animatediff.sprites.scenes.world import BACKGROUNDS, COLOURS, SIZES, Pose, Rgb, Scene

# How many times in one full turn a shape looks the same. The circle always does: its angle is read as 0.
SYMMETRIES: dict[str, int] = {"circle": 360, "square": 4, "triangle": 3, "star": 5, "heart": 1, "cross": 4}

# Distance from the background in RGB: less than half of `MIN_CONTRAST`, and more than mild noise reaches.
_FAINTEST = 40.0
# Shares of the picture and of its border. Rendered subjects cover 2 to 35 % and never touch the border.
_LEAST_AREA, _MOST_AREA = 0.01, 0.5
_MOST_BORDER = 0.1
_MOST_BESIDE = 0.15  # of the subject's area: anything larger beside it is a second subject
# Of the mask's own edge, in shares of the contrast: less is noise, more is inside. Symmetric, so that the area stays.
_EDGE = (0.15, 0.85)

# Intersection over union of mask and drawing: rendered at least 0.95, mild 0.94, coded 0.82 (of 99 % 0.86).
_LEAST_OVERLAP = 0.85
# What the overlap lacks, of what the next shape's lacks: rendered at most 0.27, mild 0.39, coded 0.78 (of 99 % 0.59).
# Half of one shape beside half of another: 0.9, of 90 % at least 0.71.
_MOST_SHAPE_RATIO = 0.65
# Root mean square distance in RGB near the subject, but for its edge: rendered and mild at most 8. A subject half of
# one colour and half of another: at least 30 plain, 22 cel, 12 chalk, whose two colours together have no name.
_MOST_ERROR = 25.0
# Of the next style's error: rendered at most 0.43, mild 0.69, coded 0.98 (of 99 % 0.73).
_MOST_STYLE_RATIO = 0.8
# In RGB; the two nearest colours are 78 apart, the two nearest backgrounds 59. Half way between them the ratio is 1.
_FARTHEST_COLOUR = 50.0
_MOST_COLOUR_RATIO = 0.75
# `Reading.size` is not said of what is smaller or larger than the world's own by more.
_SMALLEST, _LARGEST = 0.8 * min(SIZES.values()), 1.25 * max(SIZES.values())

_ANGLE_STEP = math.radians(2)
_PATCH = 24  # a side of the masks that are compared first, moved and scaled to one centroid and one area
_FIELD, _FIELD_RADIUS = 512, 0.4
_NEAR = 3.0  # pixels around the subject in which drawings are compared
_EDGE_WIDTH = 2.0  # pixels to each side of a drawing's edge that belong to the shape, not to its colours
# Pixels. Pictures are compared blurred, so that their noise and sharpness matter little; drawings also blurred more.
_PICTURE_BLUR, _DRAWING_BLURS = 1.0, (1.0, 1.5)


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


@dataclass(frozen=True)
class _Look:
    """One style's closest drawing: its (3,) colours in [0, 255], and its root mean square errors in RGB.

    `error` is near the subject, edges included; `flat_error` leaves out the pixels about the drawing's edge, where a
    subject whose outline is not quite the shape's differs whatever its colours are.
    """

    style: str
    colour: np.ndarray
    background: np.ndarray | None
    error: float
    flat_error: float


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
    mask = _subject(pixels)
    if mask is None:
        return Reading()
    shape, pose, is_sure = _fit_shape(mask)
    known_shape = shape if is_sure else None
    look = _fit_look(pixels, shape, pose)
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


def _subject(pixels: np.ndarray) -> np.ndarray | None:
    """How much of each pixel the single subject covers, holes filled. (h w) in [0, 1]; None if there is not one."""
    distance = np.linalg.norm(pixels - np.median(_border(pixels), axis=0), axis=-1)
    rough = _largest_part(distance > _FAINTEST)
    if rough is None:
        return None
    rim = rough & ~ndimage.binary_erosion(rough)
    # Full contrast is reached two pixels from the rim, even by a thin line.
    contrast = np.median(ndimage.maximum_filter(distance, 5)[rim])
    whole = _largest_part(distance > contrast / 2)
    if whole is None:
        return None
    mask = np.clip((distance / contrast - _EDGE[0]) / (_EDGE[1] - _EDGE[0]), 0.0, 1.0)
    mask[ndimage.binary_erosion(whole)] = 1.0
    mask[~ndimage.binary_dilation(whole, iterations=2)] = 0.0
    return mask


def _largest_part(marked: np.ndarray) -> np.ndarray | None:
    """Return the largest connected part (h w), holes filled; None if it cannot be a picture's only subject."""
    parts, num = ndimage.label(ndimage.binary_fill_holes(marked))
    if not num:
        return None
    areas = np.bincount(parts.ravel())[1:]
    *_, second, first = [0, *sorted(areas)]
    part: np.ndarray = parts == areas.argmax() + 1
    is_single = second <= _MOST_BESIDE * first and _border(part).mean() <= _MOST_BORDER
    return part if is_single and _LEAST_AREA <= part.mean() <= _MOST_AREA else None


def _border(picture: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of (h w ...), in one row."""
    return np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])


def _fit_shape(mask: np.ndarray) -> tuple[str, Pose, bool]:
    """Return the shape and pose whose drawing overlaps most with the mask, and whether the shape is certain."""
    likely = sorted(_likely_poses(mask), key=lambda found: found[0], reverse=True)[:3]
    overlaps = [_overlap(mask, shape, pose) for _, shape, pose in likely]
    first, second = np.argsort(overlaps)[::-1][:2]
    is_clear = 1 - overlaps[first] <= _MOST_SHAPE_RATIO * (1 - overlaps[second])
    return likely[first][1], likely[first][2], bool(is_clear and overlaps[first] >= _LEAST_OVERLAP)


def _likely_poses(mask: np.ndarray) -> Iterator[tuple[float, str, Pose]]:
    """Each shape at the angle that correlates best with the mask, and how well; centroid and area give the rest."""
    (height, width), area = mask.shape, mask.sum()
    column = float(mask.sum(axis=0) @ np.arange(width) / area)
    row = float(mask.sum(axis=1) @ np.arange(height) / area)
    offsets = (2 * (np.arange(_PATCH) + 0.5) / _PATCH - 1) * math.sqrt(area)
    patch = ndimage.map_coordinates(mask, np.meshgrid(row + offsets, column + offsets, indexing="ij"), order=1)
    short = min(height, width)
    x, y = (column + 0.5 - width / 2) / short, (row + 0.5 - height / 2) / short
    for shape in OUTLINES:
        correlations = _templates(shape) @ patch.ravel()
        radius = math.sqrt(area / _unit_area(shape)) / short
        turn = _peak(correlations) / len(correlations) % 1.0
        yield float(correlations.max()), shape, Pose(x, y, radius, turn * 2 * math.pi / SYMMETRIES[shape])


def _peak(values: np.ndarray) -> float:
    """Where a circular row of values is highest, between its places too, by a parabola. One value has it at 0."""
    top = int(values.argmax())
    before, at, after = values[top - 1], values[top], values[(top + 1) % len(values)]
    bend = before - 2 * at + after
    return top + 0.5 * float((before - after) / bend) if bend < 0 else float(top)


def _overlap(mask: np.ndarray, shape: str, pose: Pose) -> float:
    """Intersection over union."""
    height, width = mask.shape
    drawn = coverage(
        OUTLINES[shape], centre=(pose.x, pose.y), radius=pose.radius, angle=pose.angle, height=height, width=width
    )
    return float(np.minimum(drawn, mask).sum() / np.maximum(drawn, mask).sum())


@cache
def _unit_area(shape: str) -> float:
    """Of the shape with radius 1."""
    x, y = OUTLINES[shape].vertices.T
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


@cache
def _templates(shape: str) -> np.ndarray:
    """Return the shape at evenly spaced angles in its symmetry, with an area of a quarter.

    (angles pixels), unit rows.
    """
    period = 2 * math.pi / SYMMETRIES[shape]
    angles = np.linspace(0.0, period, max(1, int(period / _ANGLE_STEP)), endpoint=False)
    radius = 0.5 / math.sqrt(_unit_area(shape))
    drawn = [
        coverage(OUTLINES[shape], centre=(0.0, 0.0), radius=radius, angle=angle, height=_PATCH, width=_PATCH).ravel()
        for angle in angles.tolist()
    ]
    centred = np.stack(drawn) - np.mean(drawn, axis=1, keepdims=True)
    unit: np.ndarray = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit


def _fit_look(pixels: np.ndarray, shape: str, pose: Pose) -> _Look | None:
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
    """Each pixel's distance from the shape's edge, in pixels, negative inside; and `draw`'s slant. Both (h w 1)."""
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
    """Signed distance from the upright shape's edge, in its radii. (h w). `coverage` is slow with insets."""
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


def _fit_colours(picture: np.ndarray, parts: np.ndarray, distance: np.ndarray, style: str) -> _Look:
    """Least squares over the whole picture; the errors are those of the pixels near the subject."""
    shares = parts[..., :2].reshape(-1, 2)
    wanted = (picture - parts[..., 2:]).reshape(-1, 3)
    found = np.clip(np.linalg.pinv(shares.T @ shares) @ (shares.T @ wanted), 0.0, 255.0)
    errors = np.square(wanted - shares @ found).sum(axis=1).reshape(distance.shape)
    near = distance < _NEAR
    flat = near & (np.abs(distance) > _EDGE_WIDTH)
    has_background = bool(shares[:, 1].any())
    background = found[1] if has_background else None
    return _Look(style, found[0], background, math.sqrt(errors[near].mean()), math.sqrt(errors[flat].mean()))
