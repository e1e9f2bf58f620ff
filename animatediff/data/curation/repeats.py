"""Shots that repeat one of an earlier video: openings, endings, recaps.

No pair is looked at without a hint: shots are compared that agree in some blocks of bits of one moment's layout, each
with a bounded number of those that share the blocks, so that time grows with the number of shots and not its square.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from animatediff.data.shots.hashes import NUM_MOMENTS, NUM_WORDS

_BITS = 64
_NUM_BLOCKS, _AGREEING_BLOCKS = 6, 2
"""Two layouts that differ in four bits agree in two of six blocks at least; of five moments one is closer than that."""
_MOST_COMPARED = 8
"""Of the shots that share blocks: each is compared with so many of the first, and so many of those just before it."""
_MOST_DISTANCES = (8, 12, 8)
"""Bits by which layout, detail and colour of the same moment differ at most."""
_LEAST_MOMENTS = 3
"""How many of the moments must be the same."""


def find_repeats(shot_ids: pa.Array, video_ids: pa.Array, phashes: pa.ListArray) -> pa.Array:
    """Return for each shot the first one of another video that it repeats, "" for none: (n,) strings.

    What a shot repeats is never itself a repeat, and comes before it: adding videos at the end changes nothing before.

    Args:
        shot_ids: (n,) unique, in the order of the plan.
        video_ids: (n,) the video of each; shots of one video resemble each other by nature, and are no repeats.
        phashes: (n,) what `shot_phashes` gives; empty or null of shots that neither repeat nor are repeated.
    """
    hashes, told = _hashes(phashes)
    videos = np.asarray(_plain(video_ids).dictionary_encode().indices)[told]
    originals = _originals(hashes, videos, _alike_pairs(hashes, videos))
    found = np.full(len(phashes), -1)
    found[told] = np.where(originals < 0, -1, told[originals])
    return pc.fill_null(_plain(shot_ids).take(pa.array(found, mask=found < 0)), "")


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _hashes(phashes: pa.ListArray | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(m moments words) uint64 of the shots that have hashes, and their (m,) row numbers."""
    lists = _plain(phashes)
    has = pc.fill_null(pc.equal(pc.list_value_length(lists), NUM_MOMENTS * NUM_WORDS), False)
    values = np.asarray(lists.filter(has).flatten(), np.int64).view(np.uint64)
    return values.reshape(-1, NUM_MOMENTS, NUM_WORDS), np.flatnonzero(np.asarray(has))


def _alike(hashes: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(k,) bool: whether enough of their moments look alike."""
    one, other = hashes[a], hashes[b]
    near = (np.bitwise_count(one ^ other) <= np.array(_MOST_DISTANCES, np.uint8)).all(-1)
    shows = one.any(-1) & other.any(-1)
    return (near & shows).sum(1) >= _LEAST_MOMENTS


def _alike_pairs(hashes: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """(2 k): pairs of an earlier shot and a later one of another video that look alike, by the later one's place."""
    found = [np.empty((2, 0), np.int64)]
    for moment in range(NUM_MOMENTS):
        layouts = np.ascontiguousarray(hashes[:, moment, 0])
        shown = np.flatnonzero(layouts)
        for earlier, later in _hinted_pairs(layouts[shown]):
            a, b = shown[earlier], shown[later]
            near = np.bitwise_count(layouts[a] ^ layouts[b]) <= _MOST_DISTANCES[0]
            a, b = a[near], b[near]
            near = (videos[a] != videos[b]) & _alike(hashes, a, b)
            found.append(np.stack([a[near], b[near]]))
    pairs = np.unique(np.concatenate(found, 1)[::-1], axis=1)
    return pairs[::-1]


def _hinted_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of earlier and later hashes that agree in some blocks of bits; a pair may come several times."""
    edges = [round(_BITS * i / _NUM_BLOCKS) for i in range(_NUM_BLOCKS + 1)]
    for blocks in combinations(pairwise(edges), _AGREEING_BLOCKS):
        key = np.zeros_like(hashes)
        for low, high in blocks:
            key = key << np.uint64(high - low) | hashes >> np.uint64(low) & np.uint64((1 << (high - low)) - 1)
        tagged = np.sort(key << np.uint64(32) | np.arange(len(hashes), dtype=np.uint64))
        keys, places = tagged >> np.uint64(32), (tagged & np.uint64(0xFFFFFFFF)).astype(np.int64)
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, int)
        rank = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
        for step in range(1, _MOST_COMPARED + 1):
            later = np.flatnonzero(rank >= step)
            yield places[later - step], places[later]
            later = np.flatnonzero(rank >= _MOST_COMPARED + step)  # the nearer ones were neighbours
            yield places[later - rank[later] + step - 1], places[later]


def _originals(hashes: np.ndarray, videos: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(m,) what each shot repeats, or -1: of what it looks like, or what that repeats, the first that it looks like."""
    original = np.full(len(hashes), -1)
    later, starts = np.unique(pairs[1], return_index=True)
    for shot, earlier in zip(later, np.split(pairs[0], starts[1:]), strict=True):
        roots = np.unique(np.where(original[earlier] < 0, earlier, original[earlier]))
        same = _alike(hashes, roots, np.full(len(roots), shot)) & (videos[roots] != videos[shot])
        if same.any():
            original[shot] = roots[same][0]
    return original
