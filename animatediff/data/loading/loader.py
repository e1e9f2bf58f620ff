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
from animatediff.data.clips.source_crop import SourceCrop
from animatediff.data.loading.order import Batching, BucketOrder, ClipLocation
from animatediff.data.loading.selection import ALL_CLIPS, ClipFilter, check_not_empty, select_row_groups
from animatediff.data.manifest import Manifest
from animatediff.data.shards import latent_from_row, read_row_group

_COLUMNS = ("clip_id", "caption", "tags", "latent", "latent_shape", "latent_dtype", *SourceCrop._fields)
_PREFETCHED_BATCHES = 4


@dataclass(frozen=True)
class ClipBatch:
    """One worker's share of a global batch."""

    latents: Tensor
    """(b c f h w) float32, multiplied by the VAE's scaling factor."""
    captions: list[str]
    """One a clip."""
    tags: list[tuple[str, ...]]
    """Of each clip, those of a tagger that its caption may hold; empty where the dataset has none."""
    clip_ids: list[str]
    """One a clip."""
    source_crops: list[SourceCrop | None]
    """One a clip; None where the dataset does not say, as those of earlier releases do not."""
    first_index: int
    """Index of the first clip in the global batch."""


class ClipLoader:
    """Reads one worker's share of the global batches, ahead of their use, in a thread.

    Args:
        dataset_uri: folder of the sealed dataset.
        manifest: its manifest.
        batching: the global batches, and this worker's share of them.
        clip_filter: which clips.

    Raises:
        UserError: the dataset is empty, `clip_filter.where` cannot be understood, or no clip is left.
    """

    def __init__(
        self, dataset_uri: str, manifest: Manifest, batching: Batching, clip_filter: ClipFilter = ALL_CLIPS
    ) -> None:
        buckets = select_row_groups(dataset_uri, manifest, clip_filter)
        self._groups = [group for groups in buckets for group in groups]
        rows = [[len(group.rows) for group in groups] for groups in buckets]
        self._order = BucketOrder(rows, batch_size=batching.batch_size, seed=batching.seed)
        self._scaling_factor = manifest.scaling_factor
        self._rank_slice = batching.rank_slice
        share_size = self._rank_slice.stop - self._rank_slice.start
        # Each clip of a batch reads from one row group, or two at a border; times the buckets, which take turns.
        self._cached_group = lru_cache(maxsize=(2 * share_size + 2) * len(buckets))(self._read_group)
        self.num_clips = sum(map(sum, rows))
        """Clips that are chosen."""
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
        rows = [self._row(location) for location in self._order.batch(index)[self._rank_slice]]
        clips = np.stack([latent_from_row(row) for row in rows]).astype(np.float32)  # b f c h w
        latents = torch.from_numpy(clips).transpose(1, 2).contiguous() * self._scaling_factor
        return ClipBatch(
            latents,
            [row["caption"] or "" for row in rows],
            [tuple(row["tags"] or ()) for row in rows],
            [row["clip_id"] for row in rows],
            [_source_crop(row) for row in rows],
            self._rank_slice.start,
        )

    def _wait(self, batch: Future[ClipBatch]) -> ClipBatch:
        start = perf_counter()
        result = batch.result()
        self.wait_s += perf_counter() - start
        return result

    def _row(self, location: ClipLocation) -> dict[str, Any]:
        return self._cached_group(location.row_group).slice(location.row, 1).to_pylist()[0]

    def _read_group(self, row_group: int) -> pa.Table:
        chosen = self._groups[row_group]
        return read_row_group(chosen.uri, chosen.index, _COLUMNS).take(chosen.rows)


def _source_crop(row: dict[str, Any]) -> SourceCrop | None:
    numbers = [row[name] for name in SourceCrop._fields]
    return None if None in numbers else SourceCrop(*numbers)


def latent_shapes(dataset_uri: str, manifest: Manifest) -> list[tuple[int, int, int, int]]:
    """Return the shape (f c h w) of the clips of each bucket, read from its first.

    Raises:
        UserError: the dataset is empty, or a shard cannot be read.
    """
    check_not_empty(dataset_uri, manifest)
    firsts = {shard.bucket: shard for shard in reversed(manifest.shards)}
    shapes = []
    for _, shard in sorted(firsts.items()):
        row = read_row_group(storage.join(dataset_uri, shard.path), 0, ["latent_shape"]).slice(0, 1).to_pylist()[0]
        f, c, h, w = row["latent_shape"]
        shapes.append((f, c, h, w))
    return shapes
