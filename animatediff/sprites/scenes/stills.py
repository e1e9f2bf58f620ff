"""Captioned pictures of the sprite world: single frames of its clips, worded as people would."""

import math
from dataclasses import dataclass, replace

import numpy as np

from animatediff.sprites.scenes.drawing import SAMPLE_SIZE, draw
from animatediff.sprites.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    MIN_CONTRAST,
    NUM_WORDINGS,
    Rgb,
    Scene,
    caption,
    pose,
    sample_scenes,
)

_MOTION_SAID = 0.3
_ODD_COLOURS = 0.15


@dataclass(frozen=True)
class Stills:
    """Pictures and what they show.

    Attributes:
        pixels: (n h w 3) uint8 RGB.
        captions: n of them.
        centres: (n 2) the shapes' (x, y), in pixels from the upper left corner.
    """

    pixels: np.ndarray
    captions: list[str]
    centres: np.ndarray


def draw_stills(
    num: int,
    *,
    seed: int,
    styles: tuple[str, ...] = ("plain",),
    odd_colours: float = _ODD_COLOURS,
    new_colour: tuple[str, Rgb] | None = None,
    turned: float = 0.0,
) -> Stills:
    """Draw random moments of random clips; none of the held-out pairs of shape and colour.

    A caption names what its picture shows: the size only of a shape that does not grow or shrink, the colour only of
    one that has a name, the background as the plain style shows it. Some also say the motion, as captions of
    photographs do ("a dog running"), so that the words mean nothing else to the model when clips are made.

    Args:
        num: number of pictures.
        seed: the same seed gives the same pictures.
        styles: drawn from evenly.
        odd_colours: share of the pictures whose shape has a colour without a name.
        new_colour: a word and the colour that all shapes have then, which every background shows.
        turned: share of the pictures, circles apart, whose shape is made to spin; their captions all say so.
    """
    pixels, captions, centres = [], [], []
    for i, drawn in enumerate(sample_scenes(num, seed)):
        rng = np.random.default_rng((seed, 1000, i))
        is_turned = turned > 0 and drawn.shape != "circle" and rng.random() < turned
        scene = replace(drawn, motion="spin") if is_turned else drawn
        at = pose(scene, rng.random())
        background = BACKGROUNDS[scene.background]
        word, colour = new_colour or _colour(rng, scene, odd_colours)
        style = styles[int(rng.random() * len(styles))]
        pixels.append(draw(scene.shape, colour, background, at, SAMPLE_SIZE, SAMPLE_SIZE, style))
        captions.append(
            caption(
                scene,
                with_size=scene.motion not in ("grow", "shrink"),
                colour=word,
                with_motion=rng.random() < _MOTION_SAID or is_turned,
                wording=int(rng.integers(NUM_WORDINGS)),
            )
        )
        centres.append(((at.x + 0.5) * SAMPLE_SIZE, (at.y + 0.5) * SAMPLE_SIZE))
    return Stills(np.stack(pixels), captions, np.array(centres))


def _colour(rng: np.random.Generator, scene: Scene, odd_colours: float) -> tuple[str, Rgb]:
    """Return what the caption calls the shape's colour, and the colour."""
    if rng.random() < odd_colours:
        return "", _odd_colour(rng, scene.shape, BACKGROUNDS[scene.background])
    return scene.colour, COLOURS[scene.colour]


def _odd_colour(rng: np.random.Generator, shape: str, background: Rgb) -> Rgb:
    """Any colour that shows, and is not the one that is held out with the shape."""
    held_out = next(COLOURS[colour] for held, colour in HELD_OUT if held == shape)
    while True:
        red, green, blue = rng.integers(256, size=3).tolist()
        if math.dist((red, green, blue), background) >= MIN_CONTRAST <= math.dist((red, green, blue), held_out):
            return red, green, blue
