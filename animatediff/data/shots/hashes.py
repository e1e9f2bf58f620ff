"""Perceptual hashes of a shot: what its pictures look like, so that it is known again when it was encoded anew."""

import numpy as np
from PIL import Image

from animatediff.data.scoring.phash import phash

NUM_MOMENTS = 5
"""Stretches of equal length that a shot is hashed in."""
NUM_WORDS = 3
"""Hashes a moment: of layout, of detail, and of colour."""

_CELLS = 32
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601
_LEAST_CONTRAST = 6.0
"""Levels of 255: below this standard deviation a picture's hash is one of noise."""


def shot_phashes(frames: np.ndarray) -> tuple[int, ...]:
    """Return the hashes of a shot's moments.

    A moment's picture is the mean of its frames: a border that moves by some frames hardly changes it.

    Args:
        frames: (f h w 3) uint8 RGB, spread evenly over the shot, without bars.

    Returns:
        `NUM_MOMENTS` times `NUM_WORDS` signed 64-bit integers: layout, detail and colour of the first moment, and so
        on. Zeros of a moment that shows nothing; empty of a shot that shows nothing in half of its moments.
    """
    if not len(frames):
        return ()
    cells = np.stack([_reduce(frame) for frame in frames]).astype(np.float32)
    edges = np.linspace(0, len(cells), NUM_MOMENTS + 1)
    starts = np.minimum(edges[:-1].astype(int), len(cells) - 1)
    ends = np.maximum(np.ceil(edges[1:]).astype(int), starts + 1)
    moments = [_words(cells[start:end].mean(0)) for start, end in zip(starts, ends, strict=True)]
    if 2 * sum(any(words) for words in moments) <= NUM_MOMENTS:
        return ()
    return tuple(word for words in moments for word in words)


def _reduce(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((_CELLS, _CELLS), Image.Resampling.BOX, reducing_gap=1.0))


def _words(picture: np.ndarray) -> tuple[int, int, int]:
    """Hashes of a (32 32 3) picture; zeros where it shows nothing."""
    luma = picture @ _LUMA
    if luma.std() < _LEAST_CONTRAST:
        return 0, 0, 0
    return phash(luma), _detail(luma), _colour(picture, luma)


def _detail(luma: np.ndarray) -> int:
    """Whether each of 64 places is brighter than the one to its right: local, unlike the frequencies of the layout."""
    columns = luma.reshape(8, 4, _CELLS).mean(1)
    places = np.stack(
        [columns[:, start : start + 4].mean(1) for start in np.linspace(0, _CELLS - 4, 9).round().astype(int)], 1
    )
    return _packed(places[:, 1:] > places[:, :-1] + 1.0)


def _colour(picture: np.ndarray, luma: np.ndarray) -> int:
    """Two bits for red and two for blue in each of 16 places: much less, less, more, or much more than grey has."""
    share = (picture[..., [0, 2]] - luma[..., None]).reshape(4, 8, 4, 8, 2).mean((1, 3)) / (luma.mean() + 16)
    return _packed(np.stack([share > -0.1, share > 0.1], -1))


def _packed(bits: np.ndarray) -> int:
    return int(np.packbits(bits.reshape(64)).view(">i8")[0])
