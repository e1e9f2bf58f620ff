"""At which frames of a video its clips begin: evenly spaced, at random, or back to back."""

import hashlib

import numpy as np


def evenly_spaced_starts(possible: np.ndarray, number: int) -> np.ndarray:
    """Return up to `number` of the starts in `possible`, evenly from the first to the last.

    Args:
        possible: (n,) seconds, ascending: the frames at which there is room for a clip.
        number: at least 1.
    """
    indices = np.linspace(0, len(possible) - 1, min(number, len(possible))).round().astype(int)
    return possible[np.unique(indices)]


def random_starts(possible: np.ndarray, number: int, *, key: str, seed: int) -> np.ndarray:
    """Return up to `number` of the starts in `possible` by chance, in the order drawn.

    A larger number keeps the earlier ones.

    Args:
        possible: (n,) seconds.
        number: at least 1.
        key: the video's id.
        seed: of all videos.
    """
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest)).permutation(possible)[:number]


def back_to_back_starts(possible: np.ndarray, length: float) -> np.ndarray:
    """Return the first start, and then always the first that lies `length` or more behind the one before.

    Args:
        possible: (n,) seconds, ascending.
        length: seconds, more than 0.
    """
    chosen, index = [], 0
    while index < len(possible):
        chosen.append(index)
        index = int(np.searchsorted(possible, possible[index] + length))
    return possible[chosen]
