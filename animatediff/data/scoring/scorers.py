"""Scorers of a user's own: functions that the config names."""

import math
from collections.abc import Callable, Mapping
from numbers import Real

import numpy as np

from animatediff.data.scoring.columns import SCORE_COLUMNS
from animatediff.errors import UserError
from animatediff.plugins import load_function

Scorer = Callable[[np.ndarray, str], Mapping[str, float]]
"""A clip's frames, (f h w 3) uint8 RGB, and its caption -> scores by name; the same for the same clip."""


def load_scorer(path: str) -> Scorer:
    """Return the function at `package.module:function`.

    Raises:
        UserError: there is none.
    """
    scorer: Scorer = load_function(path, "scorer")
    return scorer


def run_scorer(scorer: Scorer, frames: np.ndarray, caption: str) -> dict[str, float]:
    """Return the finite scores that a user's function gives a clip, as plain floats; NaN and infinity are left out.

    Raises:
        UserError: it returned something else than numbers by names that `where` can say.
    """
    scores = scorer(frames, caption)
    name = getattr(scorer, "__qualname__", repr(scorer))
    if not isinstance(scores, Mapping):
        raise UserError(f"scorer {name} returned {type(scores).__name__}: it must return scores by name, a dict")
    for key, value in scores.items():
        if not isinstance(key, str) or not key.isidentifier() or key in SCORE_COLUMNS:
            raise UserError(f"scorer {name} returned a score named {key!r}: take a free name like aesthetic")
        if not isinstance(value, Real):
            raise UserError(f"scorer {name} returned {key} = {value!r:.80}: a score must be a number")
    return {key: float(value) for key, value in scores.items() if math.isfinite(value)}
