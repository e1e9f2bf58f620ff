"""Outlines of the sprite world's shapes, and how much of each pixel they cover.

Every outline is star-shaped about its centroid: a ray from there crosses it once. So whether a pixel lies inside, and
nearly always the edge that it has to be measured against, is found by the pixel's angle alone.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outline:
    """A polygon about its centroid, y downwards, and one half-plane per edge.

    Attributes:
        vertices: (v 2) in order.
        angles: (v,) the vertices' angles, ascending, in [-pi, pi].
        normals: (v 2) outward unit normals; row i belongs to the edge that ends at vertex i.
        offsets: (v,) distance of each edge's line from the centroid.
        reach: distance of the farthest vertex from the centroid, at most 1.
        has_notches: whether an edge's line runs inside the shape, so that it can be nearer than the edge.
    """

    vertices: np.ndarray
    angles: np.ndarray
    normals: np.ndarray
    offsets: np.ndarray
    reach: float
    has_notches: bool


def coverage(
    outline: Outline,
    *,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    height: int,
    width: int,
    inset: float = 0.0,
) -> np.ndarray:
    """Return how much of each pixel the shape covers, antialiased over one pixel.

    Lengths are in fractions of the picture's short side, so that a picture of any size shows the same thing.

    Args:
        outline: the shape; its reach of 1 becomes `radius`.
        centre: (x, y) of the centroid from the picture's centre, x to the right and y downwards.
        radius: of the circle that holds the shape at any angle.
        angle: clockwise rotation in radians.
        height: rows of the picture.
        width: columns of the picture.
        inset: how far inside the outline the covered part begins.

    Returns:
        (h w) float64 in [0, 1].
    """
    short = min(height, width)
    x = ((np.arange(width) + 0.5 - width / 2) / short - centre[0]) / radius
    y = ((np.arange(height) + 0.5 - height / 2) / short - centre[1])[:, None] / radius
    across = x * math.cos(angle) + y * math.sin(angle)
    down = y * math.cos(angle) - x * math.sin(angle)
    distance = _signed_distance(outline, across, down)
    if outline.has_notches:
        # Where it shows, the edges themselves are measured.
        shows = (distance < 0) if inset else (distance < 0) & (distance > -0.5 / (radius * short))
        distance[shows] = -_distance(outline, across[shows], down[shows])
    return np.clip(0.5 - (distance + inset / radius) * radius * short, 0.0, 1.0)


def _signed_distance(outline: Outline, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline's edge in units of its radius, negative inside. (h w)."""
    edge = np.searchsorted(outline.angles, np.arctan2(y, x)) % len(outline.angles)
    distance = outline.normals[edge, 0] * x + outline.normals[edge, 1] * y - outline.offsets[edge]
    # Beyond a sharp tip the edges' lines still run close by; the enclosing circle ends the tip where it should.
    return np.maximum(distance, np.hypot(x, y) - outline.reach)


def _distance(outline: Outline, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the nearest edge, of points (p) in units of its radius. (p)."""
    starts = np.roll(outline.vertices, 1, axis=0)
    along = outline.vertices - starts
    from_start = np.stack([x, y], axis=-1)[:, None] - starts  # p v 2
    share = np.clip((from_start * along).sum(axis=2) / (along**2).sum(axis=1), 0.0, 1.0)
    away = from_start - share[..., None] * along
    return np.sqrt((away**2).sum(axis=2).min(axis=1))


def _outline(points: np.ndarray, reach: float) -> Outline:
    """Move `points` (v 2), in order around the shape, to their area's centroid and scale them to `reach`."""
    centred = points - _centroid(points)
    vertices = centred * (reach / np.hypot(*centred.T).max())
    angles = np.arctan2(vertices[:, 1], vertices[:, 0])
    order = np.argsort(angles)
    vertices, angles = vertices[order], angles[order]
    along = vertices - np.roll(vertices, 1, axis=0)
    normals = np.stack([along[:, 1], -along[:, 0]], axis=1) / np.hypot(*along.T)[:, None]
    offsets = (normals * vertices).sum(axis=1)
    has_notches = bool((vertices @ normals.T > offsets + 1e-9).any())
    return Outline(vertices, angles, normals, offsets, reach, has_notches)


def _centroid(points: np.ndarray) -> np.ndarray:
    """Centre of the area that a polygon (v 2) encloses. (2,)."""
    following = np.roll(points, -1, axis=0)
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    centroid: np.ndarray = ((points + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    return centroid


def _ring(radii: list[float]) -> np.ndarray:
    """One vertex per radius, evenly around the centre, the first straight up. (v 2)."""
    turn = np.arange(len(radii)) * (2 * math.pi / len(radii)) - math.pi / 2
    return np.array(radii)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def _heart() -> np.ndarray:
    turn = np.arange(96) * (2 * math.pi / 96)
    x = 16 * np.sin(turn) ** 3
    y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([x, -y], axis=1)


def _cross(arm: float) -> np.ndarray:
    """Return a plus sign whose arms are `arm` wide to each side and 1 long. (12 2)."""
    quarter = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm]])
    quarter_turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)])


# Reaches make the areas alike, so that "large" looks alike for every shape.
OUTLINES: dict[str, Outline] = {
    "circle": _outline(_ring([1.0] * 96), 0.82),
    "square": _outline(np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]), 0.98),
    "triangle": _outline(_ring([1.0] * 3), 1.0),
    "star": _outline(_ring([1.0, 0.48] * 5), 1.0),
    "heart": _outline(_heart(), 0.98),
    "cross": _outline(_cross(0.36), 0.95),
}
