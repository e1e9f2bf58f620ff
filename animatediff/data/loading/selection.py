"""Which clips of a dataset a stream is made of: by their scores, and by whether their videos are held out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from animatediff import storage
from animatediff.data import columns
from animatediff.data.loading.holdout import is_held_out
from animatediff.data.manifest import Manifest
from animatediff.data.scoring.columns import condition
from animatediff.errors import UserError


@dataclass(frozen=True)
class ClipFilter:
    """Which clips of a dataset are read; by default all."""

    where: str = ""
    """By their scores, or a name of `scoring.columns.PRESETS`; empty takes all."""
    holdout: float = 0.0
    """Share of the videos that is held out, see `holdout.is_held_out`."""
    held_out: bool = False
    """Whether the held-out clips are taken, instead of the others."""


ALL_CLIPS = ClipFilter()


@dataclass(frozen=True)
class SelectedRowGroup:
    """A row group, and which of its rows are chosen."""

    uri: str
    """URI of the shard."""
    index: int
    """Index of the row group in the shard."""
    rows: np.ndarray
    """(n) indices of the chosen rows, ascending."""


def select_row_groups(dataset_uri: str, manifest: Manifest, clip_filter: ClipFilter) -> list[list[SelectedRowGroup]]:
    """Return the row groups of each bucket that has a chosen clip.

    Raises:
        UserError: the dataset is empty, `where` cannot be understood, or no clip is left.
    """
    check_not_empty(dataset_uri, manifest)
    where, holdout, held_out = clip_filter.where, clip_filter.holdout, clip_filter.held_out
    masks = _masks(dataset_uri, manifest, where) if where else (np.ones(s.num_clips, bool) for s in manifest.shards)
    if holdout or held_out:
        split = _held_out(dataset_uri, manifest, holdout)
        masks = (mask & (held == held_out) for mask, held in zip(masks, split, strict=True))
    buckets: dict[str, list[SelectedRowGroup]] = {}
    for shard, mask in zip(manifest.shards, masks, strict=True):
        uri, ends = storage.join(dataset_uri, shard.path), np.cumsum(shard.row_group_rows)[:-1]
        groups = [SelectedRowGroup(uri, i, np.flatnonzero(part)) for i, part in enumerate(np.split(mask, ends))]
        buckets.setdefault(shard.bucket, []).extend(groups)
    found = [groups for _, groups in sorted(buckets.items()) if any(len(group.rows) for group in groups)]
    if not found:
        if where:
            which = f"fulfils {where!r}" + (f" with {holdout:g} of the videos held out" if holdout else "")
            raise UserError(f"no clip of {dataset_uri} {which}: `animatediff show` tells how scores are spread")
        which = "held out" if held_out else "left to train on"
        raise UserError(f"no clip of {dataset_uri} is {which}: change the share of held-out videos ({holdout:g})")
    return found


def _held_out(dataset_uri: str, manifest: Manifest, fraction: float) -> Iterator[np.ndarray]:
    """Yield for each shard which of its clips are held out, (n) bool."""
    with ThreadPoolExecutor(storage.PARALLEL_READS) as pool:
        tables = pool.map(lambda shard: columns.read(dataset_uri, shard, {"video_id"}), manifest.shards)
        yield from (is_held_out(table["video_id"].to_pylist(), fraction) for table in tables)


def _masks(dataset_uri: str, manifest: Manifest, where: str) -> Iterator[np.ndarray]:
    """Yield for each shard which of its clips fulfil `where`, (n) bool."""
    chosen = condition(where, columns.names(dataset_uri, manifest))
    wanted = chosen.columns
    repeated = columns.read_duplicates(dataset_uri)["clip_id"] if columns.DUPLICATE in wanted else None
    with ThreadPoolExecutor(storage.PARALLEL_READS) as pool:
        tables = pool.map(lambda shard: columns.read(dataset_uri, shard, wanted, repeated), manifest.shards)
        yield from (chosen.mask(table) for table in tables)


def check_not_empty(dataset_uri: str, manifest: Manifest) -> None:
    """Make sure that a dataset holds clips.

    Raises:
        UserError: it holds none.
    """
    if not manifest.num_clips:
        raise UserError(f"the dataset {dataset_uri} holds no clip")
