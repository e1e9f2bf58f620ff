"""A deterministic, endless stream of clips from a sealed dataset.

The epochs' orders stand one after the other, and global batch `k` is positions `k * batch_size` to
`(k + 1) * batch_size` of that line. So nothing is dropped at an epoch's end, and the seed and `k` alone decide a
batch: a resumed run, or one with another number of workers, sees the very same batches.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from animatediff import storage
from animatediff.data.manifest import Manifest
from animatediff.data.shards import latent_from_row, read_row_group
from animatediff.errors import UserError

_COLUMNS = ("clip_id", "caption", "latent", "latent_shape", "latent_dtype")
_PREFETCHED_BATCHES = 4


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
        """The clips of global batch `index`, in order."""
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


@dataclass(frozen=True)
class ClipBatch:
    """One worker's share of a global batch."""

    latents: Tensor
    """(b c f h w) float32, multiplied by the VAE's scaling factor."""
    captions: list[str]
    """One a clip."""
    clip_ids: list[str]
    """One a clip."""
    first_index: int
    """Index of the first clip in the global batch."""


class ClipLoader:
    """Reads one worker's share of the global batches, ahead of their use, in a thread.

    Args:
        dataset_uri: folder of the sealed dataset.
        manifest: its manifest.
        batch_size: clips in a global batch.
        seed: of the clips' order.
        rank: this worker, in [0, world_size).
        world_size: workers; `batch_size` divides by it.

    Raises:
        UserError: the dataset is empty or its clips have several shapes.
    """

    def __init__(
        self,
        dataset_uri: str,
        manifest: Manifest,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} clips does not divide among {world_size} workers")
        self._groups = _row_groups(dataset_uri, manifest)
        rows = [rows for shard in manifest.shards for rows in shard.row_group_rows]
        self._order = ClipOrder(rows, batch_size=batch_size, seed=seed)
        self._scaling_factor = manifest.scaling_factor
        share = batch_size // world_size
        self._share = slice(rank * share, (rank + 1) * share)
        # Each lane is inside one group, or at the border of two.
        self._read = lru_cache(maxsize=2 * share + 2)(self._read_group)
        self.wait_s = 0.0
        """Seconds that the consumer has waited for data so far."""

    def batches(self, start: int = 0) -> Iterator[ClipBatch]:
        """The batches from number `start` on, without end.

        Raises:
            UserError: a shard is missing or damaged.
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="clip-loader")
        ahead: deque[Future[ClipBatch]] = deque()
        try:
            for index in count(start):
                ahead.append(pool.submit(self.load, index))
                if len(ahead) > _PREFETCHED_BATCHES:
                    yield self._wait(ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def load(self, index: int) -> ClipBatch:
        """This worker's share of global batch `index`, read now.

        Raises:
            UserError: a shard is missing or damaged.
        """
        rows = [self._row(place) for place in self._order.batch(index)[self._share]]
        clips = np.stack([latent_from_row(row) for row in rows]).astype(np.float32)  # b f c h w
        latents = torch.from_numpy(clips).transpose(1, 2).contiguous() * self._scaling_factor
        return ClipBatch(
            latents, [row["caption"] or "" for row in rows], [row["clip_id"] for row in rows], self._share.start
        )

    def _wait(self, batch: Future[ClipBatch]) -> ClipBatch:
        start = perf_counter()
        result = batch.result()
        self.wait_s += perf_counter() - start
        return result

    def _row(self, place: Place) -> dict[str, Any]:
        return self._read(place.group).slice(place.row, 1).to_pylist()[0]

    def _read_group(self, group: int) -> pa.Table:
        uri, index = self._groups[group]
        return read_row_group(uri, index, _COLUMNS)


def latent_shape(dataset_uri: str, manifest: Manifest) -> tuple[int, int, int, int]:
    """Shape (f c h w) of the dataset's clips, read from the first.

    Raises:
        UserError: the dataset is empty, its clips have several shapes, or its first shard cannot be read.
    """
    uri, index = _row_groups(dataset_uri, manifest)[0]
    f, c, h, w = read_row_group(uri, index, ["latent_shape"]).slice(0, 1).to_pylist()[0]["latent_shape"]
    return f, c, h, w


def _row_groups(dataset_uri: str, manifest: Manifest) -> list[tuple[str, int]]:
    buckets = sorted({shard.bucket for shard in manifest.shards})
    if not manifest.num_clips:
        raise UserError(f"the dataset {dataset_uri} holds no clip")
    if len(buckets) > 1:
        raise UserError(f"the dataset {dataset_uri} mixes the shapes {', '.join(buckets)}; training takes one")
    return [
        (storage.join(dataset_uri, shard.path), i)
        for shard in manifest.shards
        for i in range(len(shard.row_group_rows))
    ]
