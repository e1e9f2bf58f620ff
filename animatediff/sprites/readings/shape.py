"""Which shape a mask has, and its pose.

How its thresholds were measured is told in `pictures`.
"""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
from scipy import ndimage

from animatediff.sprites.scenes.shapes import OUTLINES, coverage
from animatediff.sprites.scenes.world import Pose

# How many times in one full turn a shape looks the same. The circle always does: its angle is read as 0.
SYMMETRIES: dict[str, int] = {"circle": 360, "square": 4, "triangle": 3, "star": 5, "heart": 1, "cross": 4}

# Intersection over union of mask and drawing: rendered at least 0.95, mild 0.94, coded 0.82 (of 99 % 0.86).
_LEAST_OVERLAP = 0.85
# What the overlap lacks, of what the next shape's lacks: rendered at most 0.27, mild 0.39, coded 0.78 (of 99 % 0.59).
# Half of one shape beside half of another: 0.9, of 90 % at least 0.71.
_MOST_SHAPE_RATIO = 0.65

_ANGLE_STEP = math.radians(2)
_PATCH = 24  # a side of the masks that are compared first, moved and scaled to one centroid and one area


def fit_shape(mask: np.ndarray) -> tuple[str, Pose, bool]:
    """Return the shape and pose whose drawing overlaps most with the mask, and whether the shape is certain."""
    likely = sorted(_likely_poses(mask), key=lambda found: found[0], reverse=True)[:3]
    overlaps = [_overlap(mask, shape, pose) for _, shape, pose in likely]
    first, second = np.argsort(overlaps)[::-1][:2]
    is_clear = 1 - overlaps[first] <= _MOST_SHAPE_RATIO * (1 - overlaps[second])
    return likely[first][1], likely[first][2], bool(is_clear and overlaps[first] >= _LEAST_OVERLAP)


def _likely_poses(mask: np.ndarray) -> Iterator[tuple[float, str, Pose]]:
    """Yield how well each shape correlates with the mask, and its pose at the best angle, by centroid and area."""
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
    """Return where a circular row of values is highest, between its places too, by a parabola; 0 of a single value."""
    top = int(values.argmax())
    before, at, after = values[top - 1], values[top], values[(top + 1) % len(values)]
    bend = before - 2 * at + after
    return top + 0.5 * float((before - after) / bend) if bend < 0 else float(top)


def _overlap(mask: np.ndarray, shape: str, pose: Pose) -> float:
    """Return the intersection over union of a mask and a shape's drawing."""
    height, width = mask.shape
    drawn = coverage(
        OUTLINES[shape], centre=(pose.x, pose.y), radius=pose.radius, angle=pose.angle, height=height, width=width
    )
    return float(np.minimum(drawn, mask).sum() / np.maximum(drawn, mask).sum())


@cache
def _unit_area(shape: str) -> float:
    """Return the area of the shape with radius 1."""
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
