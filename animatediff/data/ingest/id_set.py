"""A set of millions of ids, in eight bytes each."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def hashes(names: Sequence[str]) -> np.ndarray:
    """Return hashes of names, (n,) uint64.

    Among ten million names two share theirs with a chance of 3 in a million.
    """
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), np.uint64)


class IdSet:
    """A growing set of ids, kept as their 64-bit hashes.

    Sorted runs whose lengths at least double from the last to the first, so that adding stays cheap at any size.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, names: Sequence[str]) -> np.ndarray:
        """Add names.

        Returns:
            (n,) bool: which were not there before, the first of equal ones among `names` included.
        """
        hashed = hashes(names)
        unique, first = np.unique(hashed, return_index=True)
        is_new = np.zeros(len(hashed), bool)
        is_new[first] = ~self._contains(unique)
        self._merge(unique[is_new[first]])
        return is_new

    def contains(self, names: Sequence[str]) -> np.ndarray:
        """Return which names are there, (n,) bool."""
        return self._contains(hashes(names))

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def _contains(self, hashed: np.ndarray) -> np.ndarray:
        return any_of((is_in(hashed, run) for run in self._runs), len(hashed))

    def _merge(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if len(run):
            self._runs.append(run)


def is_in(values: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Return which of the values (n,) are in the sorted run (m,), as (n,) bool."""
    places = np.searchsorted(run, values)
    return (places < len(run)) & (run[np.minimum(places, len(run) - 1)] == values) if len(run) else places < 0


def any_of(masks: Iterable[np.ndarray], length: int) -> np.ndarray:
    """Return where any of the masks, each (n,), is true, as (n,) bool."""
    result = np.zeros(length, bool)
    for mask in masks:
        result |= mask
    return result
