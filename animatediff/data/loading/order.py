"""The order in which training sees a dataset's clips, decided by a seed alone.

The epochs' orders stand one after the other, and batch `k` is positions `k * batch_size` to `(k + 1) * batch_size` of
that line. So nothing is dropped at an epoch's end, and the seed and `k` alone decide a batch: a resumed run, or one
with another number of workers, sees the very same batches.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """Where a clip lies."""

    group: int
    """Index of the row group, counted over all shards in the manifest's order."""
    row: int
    """Row inside it."""


class ClipOrder:
    """Which clip stands at which position of the endless line.

    An epoch permutes all row groups and cuts the line of them into buffers of `batch_size` groups. A buffer is laid
    out in lanes: index `i` of every batch reads its own run of the buffer's rows, permuted inside each group. So a
    batch mixes clips of different row groups, while a worker, which takes neighbouring lanes, opens only its own
    share of the groups however many workers there are.

    Args:
        group_rows: rows of each row group.
        batch_size: clips in a global batch.
        seed: of all permutations.

    Raises:
        ValueError: there is no clip.
    """

    def __init__(self, group_rows: Sequence[int], *, batch_size: int, seed: int) -> None:
        self._group_rows = np.asarray(group_rows, dtype=np.int64)
        self.num_clips = int(self._group_rows.sum())
        if self.num_clips < 1:
            raise ValueError("a clip order needs at least one clip")
        self._batch_size, self._seed = batch_size, seed
        # A batch lies in two neighbouring buffers at most, save where the dataset is smaller than a batch.
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._buffer = lru_cache(maxsize=2)(self._plan_buffer)

    def batch(self, index: int) -> list[Place]:
        """Return the clips of global batch `index`, in order."""
        first = index * self._batch_size
        return [self._place(position) for position in range(first, first + self._batch_size)]

    def _place(self, position: int) -> Place:
        epoch, offset = divmod(position, self.num_clips)
        starts, _ = self._epoch(epoch)
        buffer = int(np.searchsorted(starts, offset, side="right")) - 1
        group, row = self._buffer(epoch, buffer)[offset - int(starts[buffer])]
        return Place(int(group), int(row))

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each buffer starts within the epoch, and the epoch's order of the row groups."""
        groups = np.random.default_rng([self._seed, epoch]).permutation(len(self._group_rows))
        groups = groups[self._group_rows[groups] > 0]
        ends = np.cumsum(self._group_rows[groups])
        return np.concatenate([[0], ends])[:-1][:: self._batch_size], groups

    def _plan_buffer(self, epoch: int, buffer: int) -> np.ndarray:
        """(rows, 2): group and row of each position of a buffer."""
        starts, groups = self._epoch(epoch)
        rng = np.random.default_rng([self._seed, epoch, buffer])
        chosen = groups[buffer * self._batch_size : (buffer + 1) * self._batch_size]
        sizes = self._group_rows[chosen]
        rows = np.concatenate([rng.permutation(size) for size in sizes])
        places = np.stack([np.repeat(chosen, sizes), rows], axis=1)
        lanes = (epoch * self.num_clips + int(starts[buffer]) + np.arange(len(rows))) % self._batch_size
        order = np.empty_like(places)
        order[np.argsort(lanes, kind="stable")] = places
        return order


class BucketOrder:
    """`ClipOrder` for clips of several shapes: every batch is of one bucket.

    Buckets take turns at random, each as often as it has batches: about once an epoch all have shown all their clips.

    Args:
        group_rows: for each bucket the rows of each of its row groups; every bucket has a clip.
        batch_size: clips in a global batch.
        seed: of all permutations.
    """

    def __init__(self, group_rows: Sequence[Sequence[int]], *, batch_size: int, seed: int) -> None:
        self._seed = seed
        self._orders = [ClipOrder(rows, batch_size=batch_size, seed=seed) for rows in group_rows]
        self._first_group = np.cumsum([0, *map(len, group_rows)]).tolist()
        self._turns = np.array([-(-order.num_clips // batch_size) for order in self._orders])
        self._cycle = lru_cache(maxsize=2)(self._plan_cycle)

    def batch(self, index: int) -> list[Place]:
        """Return the clips of global batch `index`, in order; groups are counted over all buckets."""
        cycle, position = divmod(index, int(self._turns.sum()))
        buckets, turns = self._cycle(cycle)
        bucket = int(buckets[position])
        places = self._orders[bucket].batch(cycle * int(self._turns[bucket]) + int(turns[position]))
        return [Place(self._first_group[bucket] + place.group, place.row) for place in places]

    def _plan_cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Whose turn it is at each position, and which turn of its own."""
        rng = np.random.default_rng([self._seed, 0, 0, cycle])
        buckets = rng.permutation(np.repeat(np.arange(len(self._turns)), self._turns))
        turns = np.empty_like(buckets)
        for bucket, num in enumerate(self._turns.tolist()):
            turns[buckets == bucket] = np.arange(num)
        return buckets, turns
