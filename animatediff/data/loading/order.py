"""The order in which training sees a dataset's clips, decided by a seed alone.

Three promises: every epoch is whole, any number of workers sees the same global batches, and a resumed run finds its
place without any saved state. Why they hold, with N clips and batches of B:

The stream. Epoch e is a permutation of all N clips, and the epochs follow one another in an endless stream:
position p is number `p % N` of epoch `p // N`. Batch k is the positions `k B` to `(k + 1) B - 1`. Nothing is dropped
where B does not divide N: the batch at an epoch's end goes on in the next epoch. Clips of several shapes have a stream
for each shape, whose batches take turns.

Every epoch is whole. Its plan permutes the row groups and cuts them into shuffle buffers of B groups. A buffer holds
all rows of its groups, each group's permuted, one group after the other; they are then moved to the buffer's
positions one to one. So each (group, row) stands at exactly one position of the epoch.

Few row groups a worker. Index i of every batch is slot i of the batch: the positions p with `p % B == i`. A buffer of
R rows has R / B positions of each slot, rounded up or down. Counting its positions slot by slot, and in a slot from
first to last, the j-th gets the buffer's j-th row. So a slot reads neighbouring rows: with groups of equal size of
one group, or of two at a border. A batch takes one clip of each slot, and with it mixes about B row groups.

Any number of workers. Nothing above knows of workers: seed and k decide a global batch. Worker r of W takes its indices
`r B // W` to `(r + 1) B // W - 1`. These ranges cover 0 to B - 1 without a gap or an overlap, as each begins where the
one before it ends, and are neighbouring slots: a worker opens about its share of the row groups, not all of them.

Resuming. A batch needs k alone: dividing `k B + i` by N gives the epoch and the number in it, a search in the buffers'
starts the buffer. The plans of both are drawn from (seed, epoch) and (seed, epoch, buffer), so none depends on what was
drawn before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Batching:
    """The global batches, and one worker's part of each."""

    batch_size: int
    """Clips in a global batch, all of one shape."""
    seed: int
    """Seed of the clips' order."""
    rank: int = 0
    """This worker, in [0, world_size)."""
    world_size: int = 1
    """Workers, at most `batch_size`; their shares differ by one clip at most."""

    def __post_init__(self) -> None:
        if self.batch_size < self.world_size:
            raise ValueError(f"a batch of {self.batch_size} clips is not enough for {self.world_size} workers")

    @property
    def rank_slice(self) -> slice:
        """This worker's part of a global batch, as indices."""
        first, end = (rank * self.batch_size // self.world_size for rank in (self.rank, self.rank + 1))
        return slice(first, end)


class ClipLocation(NamedTuple):
    """Where a clip lies, in the row groups that an order was given: those of `selection.select_row_groups`."""

    row_group: int
    """Index of its row group, counted bucket after bucket; a bucket without a chosen clip does not count."""
    row: int
    """Index among the chosen rows of the row group."""


class ClipOrder:
    """Tells which clip stands at which position of the endless stream, as the module's docstring derives.

    Args:
        group_rows: how many rows of each row group are chosen.
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
        self._cached_epoch = lru_cache(maxsize=2)(self._plan_epoch)
        self._cached_buffer = lru_cache(maxsize=2)(self._plan_buffer)

    def batch(self, index: int) -> list[ClipLocation]:
        """Return where the clips of global batch `index` lie, in order."""
        first = index * self._batch_size
        return [self._locate(position) for position in range(first, first + self._batch_size)]

    def _locate(self, position: int) -> ClipLocation:
        epoch, offset = divmod(position, self.num_clips)
        starts, _ = self._cached_epoch(epoch)
        buffer = int(np.searchsorted(starts, offset, side="right")) - 1
        group, row = self._cached_buffer(epoch, buffer)[offset - int(starts[buffer])]
        return ClipLocation(int(group), int(row))

    def _plan_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where each buffer starts within the epoch, and the epoch's order of the row groups."""
        groups = np.random.default_rng([self._seed, epoch]).permutation(len(self._group_rows))
        groups = groups[self._group_rows[groups] > 0]
        ends = np.cumsum(self._group_rows[groups])
        return np.concatenate([[0], ends])[:-1][:: self._batch_size], groups

    def _plan_buffer(self, epoch: int, buffer: int) -> np.ndarray:
        """Return the group and the row at each position of a buffer, (rows 2)."""
        starts, groups = self._cached_epoch(epoch)
        rng = np.random.default_rng([self._seed, epoch, buffer])
        chosen = groups[buffer * self._batch_size : (buffer + 1) * self._batch_size]
        sizes = self._group_rows[chosen]
        rows = np.concatenate([rng.permutation(size) for size in sizes])
        locations = np.stack([np.repeat(chosen, sizes), rows], axis=1)
        slots = (epoch * self.num_clips + int(starts[buffer]) + np.arange(len(rows))) % self._batch_size
        # Stable: positions by slot, and in a slot from first to last.
        order = np.empty_like(locations)
        order[np.argsort(slots, kind="stable")] = locations
        return order


class BucketOrder:
    """`ClipOrder` for clips of several shapes: every batch is of one bucket.

    Buckets take turns at random, each as often as it has batches: about once an epoch all have shown all their clips.

    Args:
        group_rows: for each bucket how many rows of each of its row groups are chosen; every bucket has a chosen clip.
        batch_size: clips in a global batch.
        seed: of all permutations.
    """

    def __init__(self, group_rows: Sequence[Sequence[int]], *, batch_size: int, seed: int) -> None:
        self._seed = seed
        self._orders = [ClipOrder(rows, batch_size=batch_size, seed=seed) for rows in group_rows]
        self._first_group = np.cumsum([0, *map(len, group_rows)]).tolist()
        self._num_batches = np.array([-(-order.num_clips // batch_size) for order in self._orders])
        self._cached_cycle = lru_cache(maxsize=2)(self._plan_cycle)

    def batch(self, index: int) -> list[ClipLocation]:
        """Return the clips of global batch `index`, in order; groups are counted over all buckets."""
        cycle, position = divmod(index, int(self._num_batches.sum()))
        buckets, batches = self._cached_cycle(cycle)
        bucket = int(buckets[position])
        locations = self._orders[bucket].batch(cycle * int(self._num_batches[bucket]) + int(batches[position]))
        return [ClipLocation(self._first_group[bucket] + location.row_group, location.row) for location in locations]

    def _plan_cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which bucket has its turn at each position of a cycle, and which of its batches there that is."""
        rng = np.random.default_rng([self._seed, 0, 0, cycle])
        buckets = rng.permutation(np.repeat(np.arange(len(self._num_batches)), self._num_batches))
        batches = np.empty_like(buckets)
        for bucket, num in enumerate(self._num_batches.tolist()):
            batches[buckets == bucket] = np.arange(num)
        return buckets, batches
