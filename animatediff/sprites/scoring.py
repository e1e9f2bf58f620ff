"""Scores of the sprite world's clips by its ground truth, in the form that the score job takes.

`pipelines/score.py --scorer animatediff.sprites.scoring:score`.
"""

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from animatediff.models.prompts import a1111_syntax
from animatediff.models.prompts.pieces import joined
from animatediff.rendering.catalog.prompts.prompt_text import texts_by_frame
from animatediff.rendering.results.result import Result
from animatediff.sprites.readings.clips import follows, measure_clip
from animatediff.sprites.scenes.drawing import STYLES
from animatediff.sprites.scenes.world import COLOURS, NEW_COLOUR, Rgb, Said, parse_caption

KNOWN_COLOURS: dict[str, Rgb] = COLOURS | dict([NEW_COLOUR])
"""The base's colours and the textual inversion's."""


def score(result: Result, frames: np.ndarray) -> dict[str, float]:
    """Compare a clip with its prompt and with its entry's style.

    Args:
        result: the prompt is one of the world's captions, or any text that holds some of its words; of texts by frame
            it says what they agree in. The entry's style is its name's ending: `cel`, `chalk`, else plain.
        frames: (f h w 3) uint8 RGB.

    Returns:
        Shares of the frames that show what the prompt says ("shape", "colour", "background"; chalk's blackboard hides
        the last) and the entry's "style"; 1 or 0 for a subject that "stays itself" in all frames and for the
        "motion"; "jitter" in pixels of 64. What the prompt does not say, or nothing tells, is left out.
    """
    said, style = _said(result), style_of(result.entry)
    clip = measure_clip(frames, colours=KNOWN_COLOURS)
    wanted = {"shape": said.shape, "colour": said.colour, "background": None if style == "chalk" else said.background}
    scores = {
        name: _share([getattr(reading, name) == value for reading in clip.readings])
        for name, value in wanted.items()
        if value
    }
    scores["style"] = _share([reading.style == style for reading in clip.readings])
    scores["stays itself"] = float(clip.keeps_itself)
    if said.motion:
        scores["motion"] = float(follows(clip, said.motion))
    if not math.isnan(clip.jitter):
        scores["jitter"] = clip.jitter
    return scores


def _said(result: Result) -> Said:
    texts = list(texts_by_frame(result.prompt).values())
    if result.prompt_syntax == "a1111":
        texts = [joined(a1111_syntax.parse(text)) for text in texts]
    first, *others = (parse_caption(text, KNOWN_COLOURS) for text in texts)
    names = [field.name for field in fields(Said)]
    unsaid = [name for name in names if any(getattr(other, name) != getattr(first, name) for other in others)]
    return replace(first, **dict.fromkeys(unsaid))


def style_of(name: str) -> str:
    """Return the style that an entry's name ends with, plain if it ends with none."""
    return next((style for style in STYLES if name.endswith(style)), "plain")


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)
