"""Scores of clips: those that need no weights, and the interface for a user's own.

Scores select clips when a dataset is used (`animatediff.data.where`); on ingest nothing is dropped because of
them.
"""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from numbers import Real

import numpy as np
import pyarrow as pa
from PIL import Image

from animatediff.data.scoring import measures
from animatediff.data.scoring.hard_cuts import THRESHOLD, cut_score
from animatediff.data.scoring.phash import phash
from animatediff.data.where import Where, parse
from animatediff.errors import UserError
from animatediff.plugins import load_function

SCORE_COLUMNS: dict[str, pa.DataType] = {
    "motion": pa.float32(),  # mean absolute difference of neighbouring frames, in [0, 1]
    "moving": pa.float32(),  # share of neighbouring frames with a visible difference, in [0, 1]
    "static": pa.bool_(),  # nothing visibly changes in the whole clip
    "blank": pa.bool_(),  # most frames are of one colour, or black
    "cut": pa.float32(),  # how surely there is a hard cut inside, in [0, 1]; a cut from 0.15
    "letterbox": pa.float32(),  # share of the picture under bars, in [0, 1]
    "sharpness": pa.float32(),  # variance of the Laplacian over that of brightness, in [0, 1]; blurred below 0.002
    "brightness": pa.float32(),  # mean, in [0, 1]
    "phash": pa.int64(),  # perceptual hash of the middle frame
}
"""What `score` gives, as columns of a shard; null in shards that were made without."""

PRESETS = {
    # Stock and web video: stills, slides and title cards are frequent.
    "web": f"not static and not blank and cut < {THRESHOLD} and letterbox < 0.1 and motion > 0.005",
    # Drawn animation: shots are short, so windows often hold a cut. Large parts of a picture never move, so there is no
    # bound on `motion`; held frames are normal (on threes a third of the frames differ from the one before), so only
    # pictures that change once or twice in the clip are left out.
    "anime": f"not static and not blank and cut < {THRESHOLD} and letterbox < 0.1 and moving > 0.15",
}
"""Conditions that suit a kind of collection, by name; a start for one's own."""


def condition(where: str, columns: Collection[str] | None = None) -> Where:
    """Return the condition that selects clips: the one of a preset, or as it is written.

    Args:
        where: a name of `PRESETS`, or what `parse` reads.
        columns: names that it may use; None takes any, as long as no dataset is known.

    Raises:
        UserError: it cannot be understood, or uses a name that is not there.
    """
    typo = difflib.get_close_matches(where.strip(), PRESETS, 1) if where.strip().isidentifier() else []
    if typo and where not in PRESETS and where.strip() not in (columns or ()):
        raise UserError(f"where {where!r} is neither a column nor a preset, did you mean {typo[0]!r}?")
    return parse(PRESETS.get(where, where), columns)


_CELLS = 32
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601
_FRAME_SAMPLE = 4  # bars and sharpness hardly change between neighbouring frames

Scorer = Callable[[np.ndarray, str], Mapping[str, float]]
"""A clip's frames, (f h w 3) uint8 RGB, and its caption -> scores by name; the same for the same clip."""


def score(frames: np.ndarray) -> dict[str, float | bool | int]:
    """Return the scores of one clip that need no weights.

    Args:
        frames: (f h w 3) uint8 RGB.

    Returns:
        One value for each of `SCORE_COLUMNS`.
    """
    cells = clip_cells(frames)
    luma = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in frames[::_FRAME_SAMPLE]])
    return {
        "motion": measures.motion_score(frames),
        "moving": measures.moving_share(cells),
        "static": measures.is_static(cells),
        "blank": measures.is_blank(cells),
        "cut": cut_score(cells),
        "letterbox": measures.bar_share(luma),
        "sharpness": measures.sharpness(luma),
        "brightness": float(cells.mean((0, 1, 2)) @ _LUMA / 255),
        "phash": phash(cells[len(cells) // 2] @ _LUMA),
    }


def clip_cells(frames: np.ndarray) -> np.ndarray:
    """Return (f 32 32 3) float32 in [0, 255], the frames reduced by area.

    Args:
        frames: (f h w 3) uint8.
    """
    return np.stack([_reduce(frame) for frame in frames]).astype(np.float32)


def _reduce(frame: np.ndarray) -> np.ndarray:
    # In whole steps first, which halves the time.
    return np.asarray(Image.fromarray(frame).resize((_CELLS, _CELLS), Image.Resampling.BOX, reducing_gap=1.0))


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
