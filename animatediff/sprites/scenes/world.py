"""The sprite world: what a clip of one moving shape shows, when, and how its caption says it.

A `Scene` says everything; its caption, its motion and its pixels (`drawing`) are functions of it. Motion is a function
of the time in [0, 1], so that more frames give a smoother version of the same clip. Lengths are in fractions of the
picture's short side and the motion keeps to the central square, so that other sizes and shapes of picture show the same
clip.
"""

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from animatediff.sprites.scenes.shapes import OUTLINES

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 50),
    "green": (40, 175, 70),
    "blue": (45, 95, 230),
    "purple": (140, 60, 190),
    "pink": (250, 130, 185),
    "cyan": (50, 205, 220),
}
NEW_COLOUR: tuple[str, Rgb] = ("<brown>", (130, 80, 35))
"""A word that no caption has, and the colour that it means: the textual inversion's."""
BACKGROUNDS: dict[str, Rgb] = {
    "black": (15, 15, 20),
    "white": (245, 245, 245),
    "gray": (128, 128, 128),
    "dark blue": (20, 30, 90),
    "dark green": (15, 70, 40),
    "beige": (225, 205, 170),
}
# Radius of the circle that holds the shape; growing and shrinking pass through it half way.
SIZES: dict[str, float] = {"small": 0.22, "large": 0.3}
MOTIONS: dict[str, str] = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "bounce": "bouncing",
    "spin": "spinning",
    "grow": "growing",
    "shrink": "shrinking",
    "still": "standing still",
}

_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
_MARGIN = 0.03
_GROWTH = 0.35  # radius from 0.65 to 1.35 of the size's own, or back
_NUM_HOPS = 2
_TRAVEL = 0.85  # of the way from edge to edge; the rest is where the path may begin
MIN_CONTRAST = 100.0  # Euclidean, of 8-bit RGB


@dataclass(frozen=True)
class Scene:
    """One clip of the world.

    Attributes:
        shape: a key of `OUTLINES`.
        colour: a key of `COLOURS`.
        size: a key of `SIZES`.
        background: a key of `BACKGROUNDS`.
        motion: a key of `MOTIONS`.
        x: where, in [-1, 1] from the leftmost place the shape may be to the rightmost.
        y: the same from top to bottom.
        phase: in [0, 1), where in its turn a spin begins and where in its hop a bounce begins.
    """

    shape: str
    colour: str
    size: str
    background: str
    motion: str
    x: float = 0.0
    y: float = 0.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what cannot be drawn, or would not show.

        Raises:
            ValueError: an unknown name, a number out of range, or a pair that `is_visible` excludes.
        """
        for field, known in _CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field} must be one of {', '.join(known)}, not {getattr(self, field)!r}")
        if not (abs(self.x) <= 1 and abs(self.y) <= 1 and 0 <= self.phase < 1):
            raise ValueError(f"x and y must be in [-1, 1] and phase in [0, 1): {self}")
        if not is_visible(self.shape, self.colour, self.background, self.motion):
            raise ValueError(f"{caption(self)!r} would not show: its motion or its colour cannot be seen")


# No training picture or video shows these together, so that what a model does with them is composition, not memory.
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("circle", "green"),
        ("square", "orange"),
        ("triangle", "cyan"),
        ("star", "blue"),
        ("heart", "purple"),
        ("cross", "red"),
    }
)

_CHOICES: dict[str, tuple[str, ...]] = {
    "shape": tuple(OUTLINES),
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "background": tuple(BACKGROUNDS),
    "motion": tuple(MOTIONS),
}


@dataclass(frozen=True)
class Pose:
    """Where the shape is at some moment: the ground truth of a frame.

    Attributes:
        x: of the shape's centroid, from the picture's centre to the right, in short sides.
        y: the same downwards.
        radius: of the circle that holds the shape, in short sides.
        angle: clockwise, in radians.
    """

    x: float
    y: float
    radius: float
    angle: float


def is_visible(shape: str, colour: str, background: str, motion: str) -> bool:
    """Whether the motion and the colour can be seen: no spinning circles, no pink on beige."""
    contrast = math.dist(COLOURS[colour], BACKGROUNDS[background])
    return contrast >= MIN_CONTRAST and (shape, motion) != ("circle", "spin")


# What a caption may say, the full form first; each says the background, so that none fits two kinds of picture.
_WORDINGS = (
    "a {size} {colour} {shape}{doing} on a {background} background",
    "a picture of a {size} {colour} {shape}{doing} on a {background} background",
    "{size} {colour} {shape}{doing}, {background} background",
    "a {colour} {shape}, {size},{doing} on {background}",
    "on a {background} background, a {size} {colour} {shape}{doing}",
)


def caption(
    scene: Scene, *, with_size: bool = True, colour: str | None = None, with_motion: bool = True, wording: int = 0
) -> str:
    """Return one sentence, such as "a large red star moving left on a dark blue background".

    Args:
        scene: what to describe.
        with_size: False leaves the size out.
        colour: another word for the shape's colour; "" leaves it out.
        with_motion: False leaves the motion out, for a caption of a single frame.
        wording: which of the `NUM_WORDINGS` forms.
    """
    words = _WORDINGS[wording].format(
        size=scene.size if with_size else "",
        colour=scene.colour if colour is None else colour,
        shape=scene.shape,
        background=scene.background,
        doing=f" {MOTIONS[scene.motion]}" if with_motion else "",
    )
    # What was left out leaves its space and its comma.
    spaced = " ".join(words.replace(", ,", ",").split())
    return re.sub(r"\ba (?=[aeiou])", "an ", spaced)


def caption_words() -> list[str]:
    """Return every word that a caption can hold, sorted."""
    said = " ".join(_WORDINGS) + " an " + " ".join([*OUTLINES, *COLOURS, *SIZES, *BACKGROUNDS, *MOTIONS.values()])
    return sorted(set(re.findall(r"[a-z]+", re.sub(r"{\w+}", " ", said))))


NUM_WORDINGS = len(_WORDINGS)


@dataclass(frozen=True)
class Said:
    """What a text says of a scene; None is what it does not say."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    background: str | None = None
    motion: str | None = None


def parse_caption(text: str, colours: Iterable[str] = tuple(COLOURS)) -> Said:
    """Read a caption back, in any of the wordings or in others that use the world's words.

    Args:
        text: "a large red star moving left on a dark blue background".
        colours: the words that a shape's colour may have.
    """
    words = f" {' '.join(text.lower().replace(',', ' ').split())} "

    def found(names: Iterable[str]) -> str | None:
        return next((name for name in names if f" {name} " in words), None)

    background = found(BACKGROUNDS)
    if background:
        # "dark green" is no green shape.
        words = words.replace(f" {background} ", " ")
    doing = found(MOTIONS.values())
    motion = next((motion for motion, said in MOTIONS.items() if said == doing), None)
    return Said(found(OUTLINES), found(colours), found(SIZES), background, motion)


def pose(scene: Scene, time: float) -> Pose:
    """Return where the shape is at `time` in [0, 1]."""
    radius = SIZES[scene.size]
    largest = radius * (1 + _GROWTH) if scene.motion in ("grow", "shrink") else radius
    room = 0.5 - _MARGIN - largest  # how far the centre may be from the picture's centre
    x, y = scene.x * room, scene.y * room
    if scene.motion in _DIRECTIONS:
        x, y = _travel(scene, time, room)
    elif scene.motion == "bounce":
        hop = (_NUM_HOPS * time + scene.phase) % 1.0
        y = room * (1 - 2 * 4 * hop * (1 - hop))  # a thrown ball's parabola, from floor to ceiling
    growth = {"grow": 2 * time - 1, "shrink": 1 - 2 * time}.get(scene.motion, 0.0) * _GROWTH
    turns = scene.phase + time if scene.motion == "spin" else 0.0
    return Pose(x, y, radius * (1 + growth), 2 * math.pi * turns)


def _travel(scene: Scene, time: float, room: float) -> tuple[float, float]:
    """Along the motion's direction from one side to the other; across it, and where it begins, as the scene says."""
    along_x, along_y = _DIRECTIONS[scene.motion]
    progress = _TRAVEL * (2 * time - 1)
    x = along_x * progress + (1 - _TRAVEL) * scene.x if along_x else scene.x
    y = along_y * progress + (1 - _TRAVEL) * scene.y if along_y else scene.y
    return x * room, y * room


def sample_scenes(num: int, seed: int, *, held_out: bool = False) -> list[Scene]:
    """Return scenes for a data set: the same for the same seed, and the first of a longer list are those of a shorter.

    Motions come evenly: each run of nine scenes has them all. No caption comes twice before its motion's captions have
    all been used; after that, captions repeat with other positions.

    Args:
        num: number of scenes.
        seed: at least 0.
        held_out: True gives scenes of the pairs in `HELD_OUT` alone, False none of them.
    """
    motions = list(MOTIONS)
    decks = [_shuffled_looks(motion, held_out, np.random.default_rng((seed, i))) for i, motion in enumerate(motions)]
    scenes = []
    for i in range(num):
        turn, place = divmod(i, len(motions))
        which = int(np.random.default_rng((seed, len(motions), turn)).permutation(len(motions))[place])
        look = decks[which][turn % len(decks[which])]
        x, y, phase = np.random.default_rng((seed, len(motions) + 1, i)).random(3).tolist()
        scenes.append(Scene(*look, motions[which], x=2 * x - 1, y=2 * y - 1, phase=phase))
    return scenes


def _shuffled_looks(motion: str, held_out: bool, rng: np.random.Generator) -> list[tuple[str, str, str, str]]:
    """Every (shape, colour, size, background) that shows with `motion`, in random order."""
    looks = [
        look
        for look in itertools.product(OUTLINES, COLOURS, SIZES, BACKGROUNDS)
        if is_visible(look[0], look[1], look[3], motion) and ((look[0], look[1]) in HELD_OUT) == held_out
    ]
    return [looks[i] for i in rng.permutation(len(looks))]
