"""What a clip of the sprite world does, from the readings of its frames: whether its subject lasts, and how it moves.

Lengths are in pixels of a picture whose short side has 64. "Rendered" figures are of 16 frames that show a whole clip.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from animatediff.sprites.readings.pictures import Reading, read
from animatediff.sprites.readings.shape import SYMMETRIES
from animatediff.sprites.scenes.world import COLOURS, MOTIONS, Rgb

_SHORT_SIDE = 64
_LEAST_KNOWN = 0.5  # of the frames, for a measure to be said at all
_LEAST_FOLLOWED = 0.75  # of the frames, for a motion to be recognised

# Rendered travels and bounces go 18 to 32 pixels, all else less than 0.5; mild degradation and H.264 add no more.
_REST, _MOVE = 3.0, 6.0
_MOST_ACROSS = 0.5  # of the way along the motion; rendered, less than a hundredth
# Largest radius of the smallest: rendered 2.1 for growth, less than 1.05 for all else.
_STEADY, _GROWN = 1.15, 1.3
# Degrees: rendered spins 360, all else less than 11.
_UPRIGHT, _TURNED = 20.0, 60.0
# A change of direction counts when it takes back this share of the whole range. Rendered bounces have 3 or 4.
_TURN_BACK = 0.25
_LEAST_BOUNCES, _MOST_BOUNCES = 2, 5
_LEAST_NET = 0.7  # of the range, from the first frame to the last; rendered, 1


@dataclass(frozen=True)
class ClipMeasure:
    """What was measured of one clip. Numbers are NaN where fewer than half of the frames tell.

    Attributes:
        readings: one a frame.
        keeps_itself: the same known shape and the same known colour in every frame.
        displacement: largest distance between the centroids of any two frames, in pixels of 64.
        rotation: from the least to the greatest angle, unwrapped within the shape's symmetry, in degrees: 360 for one
            turn, whichever way round; 0 for circles. Frames may turn by less than half the symmetry, 36 degrees for a
            star: a whole turn of it needs at least 12.
        scaling: the largest radius of the smallest, at least 1.
        jitter: median over the inner frames of |x[t+1] - 2 x[t] + x[t-1]|, x the centroid, in pixels of 64.
    """

    readings: tuple[Reading, ...]
    keeps_itself: bool
    displacement: float
    rotation: float
    scaling: float
    jitter: float


def measure_clip(frames: np.ndarray, *, colours: Mapping[str, Rgb] = COLOURS) -> ClipMeasure:
    """Measure one clip.

    Args:
        frames: (f h w 3) uint8 RGB, in any style.
        colours: the names that the subject's colour may have.

    Raises:
        ValueError: no frames, or not such pictures.
    """
    if not len(frames):
        raise ValueError("a clip to measure needs at least one frame")
    return measure_readings([read(frame, colours=colours) for frame in frames])


def measure_readings(readings: Sequence[Reading]) -> ClipMeasure:
    """Measure a clip whose frames have been read, at least one."""
    places, radii = _places(readings), _radii(readings)
    is_told = _share_known(radii) >= _LEAST_KNOWN
    return ClipMeasure(
        tuple(readings),
        keeps_itself=_keeps_itself(readings),
        displacement=_displacement(places) if is_told else math.nan,
        rotation=_rotation(readings),
        scaling=float(np.nanmax(radii) / np.nanmin(radii)) if is_told else math.nan,
        jitter=_jitter(places) if is_told else math.nan,
    )


def follows(measure: ClipMeasure, motion: str) -> bool:
    """Whether the subject moves as the motion says and in no other way.

    Travels go their way without turning back, bounces go up and down, spins turn one way in place, growth and
    shrinking change the size alone, and what stands still does nothing. A circle is never seen to spin.

    Raises:
        ValueError: `motion` is not a key of `MOTIONS`.
    """
    if motion not in MOTIONS:
        raise ValueError(f"motion must be one of {', '.join(MOTIONS)}, not {motion!r}")
    return seen_motion(measure) == motion


def _keeps_itself(readings: Sequence[Reading]) -> bool:
    looks = {(reading.shape, reading.colour) for reading in readings}
    return len(looks) == 1 and None not in next(iter(looks))


def _places(readings: Sequence[Reading]) -> np.ndarray:
    """Centroids from the picture's centre, NaN where there is no subject. (f 2)."""
    poses = [reading.pose for reading in readings]
    return _SHORT_SIDE * np.array([(pose.x, pose.y) if pose else (math.nan, math.nan) for pose in poses])


def _radii(readings: Sequence[Reading]) -> np.ndarray:
    """NaN where there is no subject. (f,)."""
    return _SHORT_SIDE * np.array([reading.pose.radius if reading.pose else math.nan for reading in readings])


def _share_known(values: np.ndarray) -> float:
    return 1.0 - float(np.isnan(values).mean())


def _displacement(places: np.ndarray) -> float:
    return float(np.nanmax(np.linalg.norm(places[:, None] - places, axis=-1)))


def _jitter(places: np.ndarray) -> float:
    """NaN if no three frames in a row have a subject."""
    second_differences = np.linalg.norm(places[2:] - 2 * places[1:-1] + places[:-2], axis=-1)
    known = second_differences[~np.isnan(second_differences)]
    return float(np.median(known)) if len(known) else math.nan


def _rotation(readings: Sequence[Reading]) -> float:
    angles = _angles(readings)
    return float(np.ptp(angles)) if len(angles) >= _LEAST_KNOWN * len(readings) else math.nan


def _angles(readings: Sequence[Reading]) -> np.ndarray:
    """Degrees turned since the first frame, of the frames that show the commonest shape. (k,).

    From one such frame to the next it is the least turn; over a frame without the shape it is none, as it is unknown.
    """
    shapes = Counter(reading.shape for reading in readings if reading.shape)
    if not shapes:
        return np.empty(0)
    shape = shapes.most_common(1)[0][0]
    period = 2 * math.pi / SYMMETRIES[shape]
    known = [(i, reading.pose.angle) for i, reading in enumerate(readings) if reading.shape == shape and reading.pose]
    turns = [
        (after - before + period / 2) % period - period / 2 if j == i + 1 else 0.0
        for (i, before), (j, after) in itertools.pairwise(known)
    ]
    return np.degrees(np.cumsum([0.0, *turns]))


def seen_motion(measure: ClipMeasure) -> str | None:
    """Return the one motion that the clip shows; None for none of them, or more than one."""
    places, radii = _places(measure.readings), _radii(measure.readings)
    if _share_known(radii) < _LEAST_FOLLOWED:
        return None
    is_turned, is_grown = measure.rotation >= _TURNED, measure.scaling >= _GROWN
    if measure.displacement >= _MOVE:
        return None if is_grown else _seen_way(places[~np.isnan(radii)])
    if is_grown:
        growth = _direction(np.log(radii[~np.isnan(radii)]))
        return None if is_turned else {1: "grow", -1: "shrink"}.get(growth)
    if is_turned:
        return "spin" if _direction(_angles(measure.readings)) else None
    is_still = measure.displacement <= _REST and measure.scaling <= _STEADY and not measure.rotation > _UPRIGHT
    return "still" if is_still else None


def _seen_way(places: np.ndarray) -> str | None:
    """Of what moves its place (k 2)."""
    across, down = np.ptp(places, axis=0)
    if min(across, down) > _MOST_ACROSS * max(across, down):
        return None
    if across > down:
        return {1: "right", -1: "left"}.get(_direction(places[:, 0]))
    if _LEAST_BOUNCES <= _num_reversals(places[:, 1]) <= _MOST_BOUNCES:
        return "bounce"
    return {1: "down", -1: "up"}.get(_direction(places[:, 1]))


def _direction(values: np.ndarray) -> int:
    """1 for rising, -1 for falling, 0 for turning back on the way."""
    net = float(values[-1] - values[0])
    is_one_way = abs(net) >= _LEAST_NET * np.ptp(values) and not _num_reversals(values)
    return int(math.copysign(1, net)) if is_one_way else 0


def _num_reversals(values: np.ndarray) -> int:
    """How often the values turn back by a good part of their range."""
    least = _TURN_BACK * float(np.ptp(values))
    num, way, extreme = 0, 0, float(values[0])
    for value in values.tolist():
        if way * (value - extreme) > 0:
            extreme = value
        elif abs(value - extreme) >= least:
            num += way != 0
            way, extreme = (1 if value > extreme else -1), value
    return num
