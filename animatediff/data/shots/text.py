"""How much of a shot is written: titles and credits, told from scenes, and from scenes with subtitles.

Edges are where brightness changes from pixel to pixel. Writing is edges in lines: wider than high, apart from what is
above and below, and made of many strokes, upright and level ones, that differ from row to row. A shot is written as far
as its edges are in such lines. Lines at the bottom alone are subtitles, and do not count.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from scipy import ndimage

_MOST_LOOKED_AT = 4
"""Frames of a shot, spread over it."""
_LEAST_STEP = 40.0
"""Levels of 255 between the pixels on both sides of an edge."""
_LEAST_EDGES = 60
"""Pixels of edges in a picture that shows something."""
_GAP = 0.06
"""Between words of a line, in shares of the picture's longest side."""
_LOWEST, _HIGHEST = 4, 0.45
"""Height of a line: in pixels, and in shares of the picture's height."""
_LEAST_ASPECT = 1.3
_STROKES = (0.75, 6.0)
"""Upright strokes on a way as long as the line is high, the mean of its rows. Of writing 1 to 4; of noise more.
Outlines join strokes."""
_LEAST_DENSITY = 0.12
"""Share of a line's pixels at upright strokes."""
_LEAST_LEVEL = 0.45
"""Level strokes for each upright one: of writing 0.5 to 1.4, of fences and rows of trees 0.35 at most."""
_LEAST_VARIETY = 0.1
"""Difference of a line's rows, as a share of the contrast along them; of equal shapes side by side next to none."""
_LEAST_GROUND, _GROUND_RANGE = 0.28, 24
"""Share of a line's pixels that are of its ground, within so many levels of 255: of writing 0.5 to 0.8.
Less with outlines."""
_MOST_AT_MARGIN = 0.25
"""Share of the pixels just above and below a line that are not of its ground: of writing 0.15 at most."""
_VALLEY = 0.3
"""Between lines there are so many edges, as a share of the row that has most."""
_SUBTITLES = 0.7
"""Share of the picture's height above them."""
_LEAST_ABOVE = 0.25
"""Share of what is written that is above subtitles in titles and credits."""
_LEAST_IN_ROWS = 0.1
"""Share of the edges: where less is written from left to right, it may be from top to bottom."""


def text_score(frames: np.ndarray) -> float:
    """Return how much of a shot is written, in [0, 1]: titles and rolling credits from 0.5, subtitled scenes below.

    Args:
        frames: (f h w 3) uint8 RGB, of about 256 pixels on the longest side, spread over the shot.
    """
    if not len(frames):
        return 0.0
    chosen = np.unique(np.linspace(0, len(frames) - 1, _MOST_LOOKED_AT + 2).round().astype(int)[1:-1])
    counts = np.array([_count_edges(_clearest(frames[i])) for i in chosen]).reshape(-1, 2)
    shown = counts[counts[:, 0] >= _LEAST_EDGES]
    return float(shown[:, 1].sum() / shown[:, 0].sum()) if len(shown) else 0.0


def _clearest(frame: np.ndarray) -> np.ndarray:
    """(h w) float32: of red, green and blue the one with the most contrast; words may be as bright as their ground."""
    return frame[..., frame.std((0, 1)).argmax()].astype(np.float32)


def _count_edges(picture: np.ndarray) -> tuple[int, int]:
    """Pixels of edges in an (h w) picture, and of those the ones in lines of writing."""
    upright, level = np.zeros(picture.shape, bool), np.zeros(picture.shape, bool)
    upright[:, 1:-1] = np.abs(picture[:, 2:] - picture[:, :-2]) > _LEAST_STEP
    level[1:-1] = np.abs(picture[2:] - picture[:-2]) > _LEAST_STEP
    total = int((upright | level).sum())
    lines = _covered(_lines(picture, upright, level), upright | level)
    if lines.sum() < _LEAST_IN_ROWS * total:  # from top to bottom, as Japanese may be
        lines = _covered(_lines(picture.T, level.T, upright.T), (upright | level).T).T
    written = int(lines.sum())
    above = int(lines[: round(_SUBTITLES * len(lines))].sum())
    return total, written if above >= _LEAST_ABOVE * written else 0


def _covered(boxes: Iterator[tuple[slice, slice]], edges: np.ndarray) -> np.ndarray:
    """(h w) bool: the edges that are in boxes."""
    covered = np.zeros_like(edges)
    for box in boxes:
        covered[box] = edges[box]
    return covered


def _lines(picture: np.ndarray, upright: np.ndarray, level: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Where lines of writing are: edges joined over the gaps between words, cut, if need be, where few are in a row."""
    edges = upright | level
    gap = max(3, round(_GAP * max(edges.shape))) // 2 * 2 + 1
    grown = ndimage.maximum_filter1d(np.pad(edges, ((0, 0), (gap, gap))).astype(np.uint8), gap, axis=1)
    joined = ndimage.minimum_filter1d(grown, gap, axis=1)[:, gap:-gap]
    labels, _ = ndimage.label(joined)

    def is_line(rows: slice, columns: slice) -> bool:
        strokes = _has_strokes(upright[rows, columns], level[rows, columns], len(picture))
        return strokes and _is_on_plain_ground(picture[:, columns], rows)

    for rows, columns in ndimage.find_objects(labels):
        if rows.stop - rows.start < _LOWEST or columns.stop - columns.start < _LEAST_ASPECT * _LOWEST:
            continue
        if is_line(rows, columns):
            yield rows, columns
            continue
        for part in _parts(edges[rows, columns].sum(1), rows.start):
            if is_line(part, columns):
                yield part, columns


def _parts(profile: np.ndarray, start: int) -> Iterator[slice]:
    """Cut rows, whose edges are counted, in the middle of each valley; the first row is `start`."""
    turns = np.flatnonzero(np.diff(profile < _VALLEY * profile.max(), prepend=False, append=False))
    valleys = (turns[::2] + turns[1::2]) // 2
    valleys = valleys[(valleys >= _LOWEST) & (valleys <= len(profile) - _LOWEST)]
    if len(valleys):
        for first, last in pairwise([0, *valleys, len(profile)]):
            yield slice(start + first, start + last)


def _has_strokes(upright: np.ndarray, level: np.ndarray, picture_height: int) -> bool:
    """Whether what is in a box is as wide as a line of writing, and made of strokes like it."""
    height, width = upright.shape
    if not _LOWEST <= height <= _HIGHEST * picture_height or width < _LEAST_ASPECT * height:
        return False
    strokes = (upright[:, 1:] & ~upright[:, :-1]).sum(1).mean() * height / width
    dense = upright.mean() >= _LEAST_DENSITY
    return bool(dense and _STROKES[0] <= strokes <= _STROKES[1] and level.sum() >= _LEAST_LEVEL * upright.sum())


def _is_on_plain_ground(picture: np.ndarray, rows: slice) -> bool:
    """Whether some rows show one thing after the other before a plain ground, which goes on above and below."""
    line = picture[rows]
    height = len(line)
    inner = line[round(0.3 * height) : round(0.7 * height) + 1]
    if inner.std(0).mean() < _LEAST_VARIETY * inner.std(1).mean():
        return False
    margins = [picture[row] for row in (rows.start - 1, rows.stop) if 0 <= row < len(picture)]
    ground = np.median(margins or line)
    away = [float((np.abs(pixels - ground) > _GROUND_RANGE).mean()) for pixels in (line, *margins)]
    return 1 - away[0] >= _LEAST_GROUND and max(away[1:], default=0.0) <= _MOST_AT_MARGIN
