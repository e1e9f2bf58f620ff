"""How many of a dataset's captions are longer than a run reads: told before it, as their ends teach nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from animatediff import storage
from animatediff.data.manifest import Manifest
from animatediff.data.shards import read_row_group
from animatediff.models.prompts.chunks import TokenGroup, cut_into_chunks
from animatediff.weights.base import load_tokenizer

_T = TypeVar("_T")

# A start may not wait for it: 2,000 captions are tokenized in less than a second.
_MOST_CAPTIONS = 2000
_MOST_GROUPS = 16


class LongCaptions(NamedTuple):
    """How many of a dataset's captions are longer than a run reads."""

    number: int
    """Captions with more chunks than `chunks`."""
    looked_at: int
    """Of so many, spread evenly over the dataset's clips where there are more."""
    room: int
    """Tokens of a chunk, which the base reads at once: 75 for CLIP, without start and end."""
    chunks: int
    """That are read of each caption."""

    def __str__(self) -> str:
        share = self.number / max(1, self.looked_at)
        read = f"{self.room} tokens" if self.chunks == 1 else f"{self.chunks} chunks of {self.room} tokens"
        remedy = "; with text.chunks more is read" if self.number else ""
        return (
            f"{self.number} of {self.looked_at} captions ({share:.1%}) are longer than the {read} that are read{remedy}"
        )


def count_long_captions(dataset_uri: str, manifest: Manifest, base: str, chunks: int = 1) -> LongCaptions:
    """Count the captions of more than so many chunks of the base's tokens, in at most 2,000 clips.

    Raises:
        UserError: a shard or the base's tokenizer cannot be read.
    """
    tokenizer, room = load_tokenizer(base)
    captions = _sample(dataset_uri, manifest)
    comma, *captions_ids = tokenizer([",", *captions], add_special_tokens=False, verbose=False).input_ids
    lengths = [len(cut_into_chunks([[TokenGroup([i], 1.0) for i in ids]], room, comma[0])) for ids in captions_ids]
    return LongCaptions(sum(length > chunks for length in lengths), len(captions), room, chunks)


def _sample(dataset_uri: str, manifest: Manifest) -> list[str]:
    groups = [(shard.path, index) for shard in manifest.shards for index in range(len(shard.row_group_rows))]

    def read(group: tuple[str, int]) -> list[str]:
        path, index = group
        rows = read_row_group(storage.join(dataset_uri, path), index, ["caption"])
        return [caption or "" for caption in rows["caption"].to_pylist()]

    with ThreadPoolExecutor(_MOST_GROUPS) as pool:
        captions = [caption for some in pool.map(read, _spread(groups, _most_groups(manifest))) for caption in some]
    return list(_spread(captions, _MOST_CAPTIONS))


def _most_groups(manifest: Manifest) -> int:
    """Return how many row groups are read: all of a small dataset."""
    return max(_MOST_GROUPS, manifest.num_clips) if manifest.num_clips <= _MOST_CAPTIONS else _MOST_GROUPS


def _spread(items: list[_T], most: int) -> Iterator[_T]:
    """Return at most so many of the items, at even distances."""
    chosen = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return (items[index] for index in chosen)
