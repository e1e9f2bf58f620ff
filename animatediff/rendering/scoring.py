"""Scores of rendered clips: the small interface by which a user's own measure, named by an import path, is applied."""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from animatediff.plugins import load_function
from animatediff.rendering.results.result import Result

Scorer = Callable[[Result, np.ndarray], Mapping[str, float]]
"""What was rendered and its frames, (f h w 3) uint8 RGB -> scores by name; what cannot be said is NaN or left out."""


def load_scorer(path: str) -> Scorer:
    """Return the function at `package.module:function`.

    Raises:
        UserError: there is none.
    """
    scorer: Scorer = load_function(path, "scorer")
    return scorer


def apply_scorer(scorer: Scorer, result: Result, frames: np.ndarray) -> dict[str, float]:
    """Return the finite scores of a clip, as plain floats."""
    scores = {name: float(value) for name, value in scorer(result, frames).items()}
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def with_scores(result: Result, scorer: str, scores: Mapping[str, float] | None, *, error: str | None = None) -> Result:
    """Return a result with what a scorer measured; what others measured stays.

    Args:
        result: the clip's.
        scorer: its import path.
        scores: by name; None if the scorer did not come to its end, and is to be tried again.
        error: why it gave nothing.
    """
    others = {path: found for path, found in result.scores.items() if path != scorer}
    errors = {path: text for path, text in result.score_errors.items() if path != scorer}
    return result.model_copy(
        update={
            "scores": others if scores is None else others | {scorer: dict(scores)},
            "score_errors": errors if error is None else errors | {scorer: error},
        }
    )


def mean_scores(results: Iterable[Result], scorer: str) -> dict[str, dict[str, float]]:
    """Return the means of a scorer's scores over each entry's clips: entry -> name -> mean, in order of appearance."""
    values: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for name, value in result.scores.get(scorer, {}).items():
            values.setdefault(result.entry, {}).setdefault(name, []).append(value)
    return {entry: {name: math.fsum(v) / len(v) for name, v in named.items()} for entry, named in values.items()}
