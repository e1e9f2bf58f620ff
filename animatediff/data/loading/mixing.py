"""Batches of a second dataset among those of the first, as against forgetting."""

import math
from collections.abc import Iterator
from itertools import count

from animatediff.data.loading.loader import ClipBatch, ClipLoader


class MixedLoader:
    """A stream in which a fixed share of the batches is another dataset's, evenly spread.

    Which batch comes from where follows from its number alone, as in `ClipLoader`; a batch is never mixed itself, as
    the two may have clips of different shapes.

    Args:
        loader: of the first dataset.
        other: of the second one, made for the same batch size and the same worker.
        other_fraction: of the batches that are `other`'s, in (0, 1).
    """

    def __init__(self, loader: ClipLoader, other: ClipLoader, *, other_fraction: float) -> None:
        self._loader, self._other, self._other_fraction = loader, other, other_fraction

    @property
    def wait_s(self) -> float:
        """Seconds that the consumer has waited for data so far."""
        return self._loader.wait_s + self._other.wait_s

    def batches(self, start: int = 0) -> Iterator[ClipBatch]:
        """Yield the batches from number `start` on, without end.

        Raises:
            UserError: a shard is missing or damaged.
        """
        num_others = self._num_others(start)
        first, second = self._loader.batches(start - num_others), self._other.batches(num_others)
        for index in count(start):
            is_other = self._num_others(index + 1) > self._num_others(index)
            yield next(second if is_other else first)

    def _num_others(self, index: int) -> int:
        """Return how many batches before number `index` are the other dataset's."""
        return math.floor(index * self._other_fraction)
