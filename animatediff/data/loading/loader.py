"""A deterministic, endless stream of clips from a sealed dataset, in the order that `order` tells."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from animatediff import storage
from animatediff.data import columns
from animatediff.data.loading.holdout import is_held_out
from animatediff.data.loading.order import BucketOrder, Place
from animatediff.data.manifest import Manifest
from animatediff.data.scoring import scores
from animatediff.data.shards import latent_from_row, read_row_group
from animatediff.errors import UserError

_COLUMNS = ("clip_id", "caption", "latent", "latent_shape", "latent_dtype")
_PREFETCHED_BATCHES = 4
_READERS = 16


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


@dataclass(frozen=True)
class _Group:
    """A row group, and which of its rows are chosen."""

    uri: str
    index: int
    rows: np.ndarray


class ClipLoader:
    """Reads one worker's share of the global batches, ahead of their use, in a thread.

    Args:
        dataset_uri: folder of the sealed dataset.
        manifest: its manifest.
        batch_size: clips in a global batch, all of one shape.
        seed: of the clips' order.
        rank: this worker, in [0, world_size).
        world_size: workers, at most `batch_size`; their shares differ by one clip at most.
        where: which clips, by their scores, or a name of `scores.PRESETS`; empty takes all.
        holdout: share of the videos that is held out, see `holdout.is_held_out`.
        held_out: read those clips instead of the others.

    Raises:
        UserError: the dataset is empty, `where` cannot be understood, or no clip is left.
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
        where: str = "",
        holdout: float = 0.0,
        held_out: bool = False,
    ) -> None:
        if batch_size < world_size:
            raise ValueError(f"a batch of {batch_size} clips is not enough for {world_size} workers")
        buckets = _choose(dataset_uri, manifest, where, holdout, held_out)
        self._groups = [group for groups in buckets for group in groups]
        rows = [[len(group.rows) for group in groups] for groups in buckets]
        self._order = BucketOrder(rows, batch_size=batch_size, seed=seed)
        self._scaling_factor = manifest.scaling_factor
        self._share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        share = self._share.stop - self._share.start
        # Each lane is inside one group, or at the border of two; a bucket may have its turn in between.
        self._read = lru_cache(maxsize=(2 * share + 2) * len(buckets))(self._read_group)
        self.num_clips = sum(map(sum, rows))
        """Clips that `where` chooses."""
        self.wait_s = 0.0
        """Seconds that the consumer has waited for data so far."""

    def batches(self, start: int = 0) -> Iterator[ClipBatch]:
        """Yield the batches from number `start` on, without end.

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
        """Read this worker's share of global batch `index` now.

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
        chosen = self._groups[group]
        return read_row_group(chosen.uri, chosen.index, _COLUMNS).take(chosen.rows)


def latent_shapes(dataset_uri: str, manifest: Manifest) -> list[tuple[int, int, int, int]]:
    """Shape (f c h w) of the clips of each bucket, read from its first.

    Raises:
        UserError: the dataset is empty, or a shard cannot be read.
    """
    _refuse_empty(dataset_uri, manifest)
    firsts = {shard.bucket: shard for shard in reversed(manifest.shards)}
    shapes = []
    for _, shard in sorted(firsts.items()):
        row = read_row_group(storage.join(dataset_uri, shard.path), 0, ["latent_shape"]).slice(0, 1).to_pylist()[0]
        f, c, h, w = row["latent_shape"]
        shapes.append((f, c, h, w))
    return shapes


def _choose(dataset_uri: str, manifest: Manifest, where: str, holdout: float, held_out: bool) -> list[list[_Group]]:
    """Return the row groups of each bucket that has a chosen clip."""
    _refuse_empty(dataset_uri, manifest)
    masks = _masks(dataset_uri, manifest, where) if where else (np.ones(s.num_clips, bool) for s in manifest.shards)
    if holdout or held_out:
        split = _held_out(dataset_uri, manifest, holdout)
        masks = (mask & (held == held_out) for mask, held in zip(masks, split, strict=True))
    buckets: dict[str, list[_Group]] = {}
    for shard, mask in zip(manifest.shards, masks, strict=True):
        uri, ends = storage.join(dataset_uri, shard.path), np.cumsum(shard.row_group_rows)[:-1]
        groups = [_Group(uri, i, np.flatnonzero(part)) for i, part in enumerate(np.split(mask, ends))]
        buckets.setdefault(shard.bucket, []).extend(groups)
    found = [groups for _, groups in sorted(buckets.items()) if any(len(group.rows) for group in groups)]
    if not found:
        if where:
            which = f"fulfils {where!r}" + (f" with {holdout:g} of the videos held out" if holdout else "")
            raise UserError(f"no clip of {dataset_uri} {which}: `animatediff show` tells how scores are spread")
        which = "held out" if held_out else "left to train on"
        raise UserError(f"no clip of {dataset_uri} is {which}: change the share of held-out videos ({holdout:g})")
    return found


def _held_out(dataset_uri: str, manifest: Manifest, share: float) -> Iterator[np.ndarray]:
    """For each shard which of its clips are held out, (n,) bool."""
    with ThreadPoolExecutor(_READERS) as pool:
        tables = pool.map(lambda shard: columns.read(dataset_uri, shard, {"video_id"}), manifest.shards)
        yield from (is_held_out(table["video_id"].to_pylist(), share) for table in tables)


def _masks(dataset_uri: str, manifest: Manifest, where: str) -> Iterator[np.ndarray]:
    """For each shard which of its clips are wanted, (n,) bool."""
    condition = scores.condition(where, columns.names(dataset_uri, manifest))
    wanted = condition.columns
    repeated = columns.read_duplicates(dataset_uri)["clip_id"] if columns.DUPLICATE in wanted else None
    with ThreadPoolExecutor(_READERS) as pool:
        tables = pool.map(lambda shard: columns.read(dataset_uri, shard, wanted, repeated), manifest.shards)
        yield from (condition.mask(table) for table in tables)


def _refuse_empty(dataset_uri: str, manifest: Manifest) -> None:
    if not manifest.num_clips:
        raise UserError(f"the dataset {dataset_uri} holds no clip")
