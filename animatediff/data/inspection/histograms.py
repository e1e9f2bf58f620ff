"""Histograms of a dataset's scores, as one picture."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

_COLUMNS = 3
_BINS = 40


def histograms(scores: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """Return a PNG with one histogram a score.

    Args:
        scores: names, and values (n,) of the clips.
    """
    rows = max(1, -(-len(scores) // _COLUMNS))
    figure = Figure(figsize=(4 * _COLUMNS, 2.6 * rows), layout="constrained")
    for i, (name, values) in enumerate(scores):
        axes = figure.add_subplot(rows, _COLUMNS, i + 1)
        axes.hist(values, bins=_BINS, color="#3057d5")
        axes.set_title(f"{name} ({len(values)} clips)", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
