"""What is measured on the pictures of a clip: visible change, blankness, bars, sharpness."""

import itertools

import numpy as np

_VISIBLE = 16
"""Levels of 255. In still pictures of 256 x 256, H.264 at CRF 40 and grain of sigma 10 change a cell of 1/32 of the
side by up to 11; an eye of 8 x 12 pixels that blinks changes its cell by 77. What H.264 leaves behind at a moved edge
and mends a frame later is seen as change now and then."""
_FLAT_STD = 4.0
_BLACK = 20.0
_BAR_TOLERANCE = 12
_BAR_NOISE = 0.05
"""Share of a bar's pixels that may be off its colour."""
_BAR_EDGE = 0.5
"""Share of the line behind a bar that must be off its colour: a shape before a flat sky leaves most of it."""


def moving_share(cells: np.ndarray) -> float:
    """Return the share of neighbouring frames with a visible difference, in [0, 1].

    Held frames (on twos, threes) do not count.

    Args:
        cells: (f 32 32 3) float32 in [0, 255], the frames reduced by area.
    """
    if len(cells) < 2:
        return 0.0
    return float((np.abs(np.diff(cells, axis=0)).max((1, 2, 3)) > _VISIBLE).mean())


def is_static(cells: np.ndarray) -> bool:
    """Whether nothing visibly changes from the first frame to the last, however slowly.

    Args:
        cells: (f 32 32 3) float32 in [0, 255].
    """
    return bool((cells.max(0) - cells.min(0)).max() <= _VISIBLE)


def is_blank(cells: np.ndarray) -> bool:
    """Whether more than half of the frames are of one colour, or black.

    Args:
        cells: (f 32 32 3) float32 in [0, 255].
    """
    channels = np.ascontiguousarray(cells.transpose(0, 3, 1, 2))  # nine times as fast
    flat = channels.std((2, 3)).max(-1) < _FLAT_STD
    brightest = np.maximum(np.maximum(cells[..., 0], cells[..., 1]), cells[..., 2])  # 25 times as fast as max(-1)
    black = (brightest < _BLACK).mean((1, 2)) > 0.99
    return bool((flat | black).mean() > 0.5)


def bar_share(luma: np.ndarray) -> float:
    """Return the share of the picture under bars above and below or left and right, in [0, 1].

    Bars are of one colour in all frames, of the same breadth on both sides, and end in a straight line.

    Args:
        luma: (f h w) uint8.
    """
    rows = [_bar(lines) for lines in (luma, luma[:, ::-1])]
    columns = [_bar(lines) for lines in (luma.swapaxes(1, 2), luma.swapaxes(1, 2)[:, ::-1])]
    high, wide = 2 * min(rows) / luma.shape[1], 2 * min(columns) / luma.shape[2]
    return 1 - (1 - high) * (1 - wide)


def _bar(lines: np.ndarray) -> int:
    """Return the number of lines in the bar at the start of (f n m) uint8 pictures.

    None in a picture that is a bar throughout.
    """
    level = int(np.median(lines[:, 0]))

    def share_off(lines: np.ndarray) -> np.ndarray:
        same = (lines >= max(0, level - _BAR_TOLERANCE)) & (lines <= min(255, level + _BAR_TOLERANCE))
        return np.asarray(1 - same.mean((0, 2)))

    if share_off(lines[:, :1])[0] > _BAR_NOISE:  # as in most pictures, whose other lines need no look
        return 0
    off = share_off(lines)
    breadth = int(np.argmax(off > _BAR_NOISE))
    # Resizing and compression blur the edge over a few lines.
    edge = off[breadth : breadth + max(2, len(off) // 32)]
    return breadth if edge.max() >= _BAR_EDGE else 0


def sharpness(luma: np.ndarray) -> float:
    """Return the variance of the Laplacian over the variance of brightness, in [0, 1], the mean of the frames.

    The division makes it independent of contrast and nearly so of size. White noise has 20 / 64, the most is a
    chequerboard of pixels; a picture upscaled to its size has next to nothing.

    Args:
        luma: (f h w) uint8.
    """
    # One by one: larger arrays are asked of the system anew each time, which takes longer than the arithmetic.
    return float(np.array([_sharpness(picture) for picture in luma], np.float32).mean())


def _sharpness(luma: np.ndarray) -> float:
    """Return the sharpness of one picture, (h w) uint8."""
    x = luma.astype(np.int16)
    laplacian = 4 * x[1:-1, 1:-1]
    for neighbours in (x[:-2, 1:-1], x[2:, 1:-1], x[1:-1, :-2], x[1:-1, 2:]):
        laplacian -= neighbours
    rough, spread = (pixels.astype(np.float32).var() for pixels in (laplacian, luma))
    # The one level of rounding keeps flat pictures at 0.
    return float(np.minimum(1.0, rough / (64 * (spread + 1))))


def motion_score(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring frames, in [0, 1]; 0 is a still picture.

    Args:
        frames: (f h w 3) uint8.
    """
    if len(frames) < 2:
        return 0.0
    # Frame by frame in uint8, which stays in the processor's cache: six times as fast as all frames at once.
    more, less = np.empty_like(frames[0]), np.empty_like(frames[0])
    total = 0
    for frame, following in itertools.pairwise(frames):
        np.maximum(frame, following, out=more)
        np.minimum(frame, following, out=less)
        np.subtract(more, less, out=more)
        total += int(more.sum((1, 2), dtype=np.uint32).sum())
    return total / frames[1:].size / 255
