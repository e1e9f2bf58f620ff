"""The tags of captions, shuffled and dropped anew each time that a clip is trained on."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from animatediff.training.settings import TextConfig

_SEPARATOR = ", "
_EDGES = " ,;:|"
"""What a caption does not begin or end with once its tags are gone."""
_SENTENCE_ENDS = (".", "!", "?", "\u2026", "\u3002")
_OF_TAGS = 1
"""Tells these draws from those of the same clip's noise."""


class BatchPlace(NamedTuple):
    """Where in a run a worker's share of a batch stands: its draws depend on nothing else."""

    seed: int
    """The run's."""
    step: int
    """The global step."""
    first_index: int
    """Index of its first clip in the global batch."""


def vary_captions(
    captions: Sequence[str], tags: Sequence[Sequence[str]], text: TextConfig, place: BatchPlace
) -> list[str]:
    """Return what a worker's clips are trained on at a step: the same for any number of workers.

    Args:
        captions: one a clip.
        tags: of each clip; where there are none, they are what stands between the commas of a caption that is no
            sentence: such a one stays as it is.
        text: what is done to the tags.
        place: of the clips in the run.
    """
    if not (text.shuffle_caption or text.caption_tag_dropout_rate):
        return list(captions)
    generators = [
        np.random.default_rng([place.seed, place.step, place.first_index + i, _OF_TAGS]) for i in range(len(captions))
    ]
    return [
        _vary(caption, own, text, generator) for caption, own, generator in zip(captions, tags, generators, strict=True)
    ]


def _vary(caption: str, tags: Sequence[str], text: TextConfig, generator: np.random.Generator) -> str:
    """Return a caption with the tags in it varied; one that holds none of its clip's tags stays as it is."""
    if not tags:
        if caption.rstrip().endswith(_SENTENCE_ENDS):
            return caption
        parts = [part.strip() for part in caption.split(",")]
        return _SEPARATOR.join(_chosen([part for part in parts if part], text, generator))
    found = _find(caption, tags)
    if found is None:
        return caption
    number, start, end = found
    chosen = _SEPARATOR.join(_chosen(tags[:number], text, generator))
    return caption[:start] + chosen + caption[end:] if chosen else _joined(caption[:start], caption[end:])


def _find(caption: str, tags: Sequence[str]) -> tuple[int, int, int] | None:
    """Return how many of the tags a caption holds, one after the other, and where they start and end.

    A template may have taken the first few of them; one alone, though, may be a word of the caption.
    """
    for number in range(len(tags), min(len(tags), 2) - 1, -1):
        words = re.escape(_SEPARATOR.join(tags[:number]))
        around = (r"(?<!\w)", r"(?!\w)") if number > 1 else (r"(?:^|(?<=, ))", r"(?=,|$)")
        if match := re.search(words.join(around), caption):
            return number, *match.span()
    return None


def _chosen(tags: Sequence[str], text: TextConfig, generator: np.random.Generator) -> list[str]:
    kept, others = list(tags[: text.keep_tokens]), list(tags[text.keep_tokens :])
    if text.shuffle_caption:
        others = [others[index] for index in generator.permutation(len(others))]
    stay = generator.random(len(others)) >= text.caption_tag_dropout_rate
    return kept + [tag for tag, stays in zip(others, stay.tolist(), strict=True) if stays]


def _joined(before: str, behind: str) -> str:
    """Return what stood around tags that are all gone, without their separators."""
    behind = behind.lstrip(_EDGES)
    return before + behind if behind else before.rstrip(_EDGES)
