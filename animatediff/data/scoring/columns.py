"""Scores as columns of a table, and conditions on them.

Apart from `scores`, because processes that decode measure clips, and write no table.
"""

import difflib
from collections.abc import Collection

import pyarrow as pa

from animatediff.data.scoring.hard_cuts import THRESHOLD
from animatediff.data.where import Where, parse
from animatediff.errors import UserError

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
"""What `scores.score` gives, as columns of a shard; null in shards that were made without."""

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
