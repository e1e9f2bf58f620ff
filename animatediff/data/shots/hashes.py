"""A stand-in until the hashes of the selection are merged."""

import numpy as np

from animatediff.data.scoring.phash import phash
from animatediff.data.scoring.scores import clip_cells


def shot_phashes(frames: np.ndarray) -> tuple[int, ...]:
    """Return the hashes of five frames."""
    places = np.linspace(0, len(frames) - 1, 5).round().astype(int)
    return tuple(phash(cells.mean(-1)) for cells in clip_cells(frames[places]))
