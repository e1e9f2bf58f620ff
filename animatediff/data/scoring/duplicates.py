"""Duplicates among clips: the same moments of the same file, and pictures that look alike.

Look-alikes are found exactly, without comparing all pairs: cut into `max_distance + 3` blocks of bits, two hashes that
differ in `max_distance` bits agree in 3 blocks at least, so for each choice of 3 blocks only hashes that agree there
are compared. With 3 bits that takes 20 sorts by 32-bit keys. Single 16-bit blocks would take 4, but real hashes crowd:
at 10 million clips a block's value is shared by hundreds of them, and all their pairs would have to be looked at.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_AGREEING_BLOCKS = 3
_MOST_BITS = 8


class Duplicates(NamedTuple):
    """For each clip the id of the first clip that it repeats, "" where there is none: two (n,) arrow string arrays.

    That clip may itself repeat an earlier one. Without all clips that repeat something, one of each kind is left.
    """

    exact: pa.Array
    near: pa.Array


def find(
    clip_ids: Sequence[str] | pa.Array,
    contents: Sequence[str] | pa.Array,
    phash: np.ndarray,
    *,
    videos: np.ndarray,
    ignored: np.ndarray,
    max_distance: int = 3,
) -> Duplicates:
    """Find the duplicates among clips; "first" is by the order given. Memory is about 150 bytes a clip.

    Args:
        clip_ids: (n,) unique.
        contents: (n,) names of what a clip shows: the source file's sha256, the times and whether it is mirrored.
        phash: (n,) int64.
        videos: (n,) integers, equal for clips of one video: they resemble each other by nature, which is no fault.
        ignored: (n,) bool, clips whose hash says nothing: blank ones, or those without a hash.
        max_distance: bits in which the hashes of look-alikes may differ, 0 to 8.
    """
    if not 0 <= max_distance <= _MOST_BITS:
        raise ValueError(f"max_distance must be 0 to {_MOST_BITS}, not {max_distance}")
    ids = _array(clip_ids)
    near = np.full(len(ids), -1)
    told = np.flatnonzero(~np.asarray(ignored, bool))
    firsts = _first_lookalikes(np.asarray(phash)[told].view(np.uint64), np.asarray(videos)[told], max_distance)
    near[told] = np.where(firsts < 0, -1, told[firsts])
    return Duplicates(_names(ids, _first_equals(_array(contents))), _names(ids, near))


def _array(strings: Sequence[str] | pa.Array) -> pa.Array:
    if isinstance(strings, pa.ChunkedArray):
        return strings.combine_chunks()
    return strings if isinstance(strings, pa.Array) else pa.array(strings, pa.string())


def _names(ids: pa.Array, indices: np.ndarray) -> pa.Array:
    return pc.fill_null(ids.take(pa.array(indices, mask=indices < 0)), "")


def _first_equals(contents: pa.Array) -> np.ndarray:
    """(n,) index of the first equal one before each, or -1."""
    codes = contents.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    firsts = first[codes]
    return np.where(firsts < np.arange(len(codes)), firsts, -1)


def _first_lookalikes(hashes: np.ndarray, videos: np.ndarray, max_distance: int) -> np.ndarray:
    """(n,) index of the first clip of another video before each whose hash is at most `max_distance` away, or -1."""
    n = len(hashes)
    if not n:
        return np.empty(0, np.int64)
    values, groups = np.unique(hashes, return_inverse=True)
    own = np.arange(len(values))
    pairs = np.concatenate([np.stack([own, own]), *_close_pairs(values, max_distance)], axis=1)
    # Of each hash and those near it: the first clip, and the first of another video than that one's.
    earliest = _earliest(groups, np.arange(n), len(values))
    best = np.full(len(values), n)
    _lower(best, pairs, earliest)
    rival = np.full(len(values), n)
    other = _earliest_of_other(groups, videos, earliest)
    for a, b in (pairs, pairs[::-1]):
        differs = videos[earliest[b]] != videos[best[a]]
        np.minimum.at(rival, a, np.where(differs, earliest[b], other[b]))
    firsts = np.where(videos[best[groups]] != videos, best[groups], rival[groups])
    return np.where(firsts < np.arange(n), firsts, -1)


def _earliest(groups: np.ndarray, clips: np.ndarray, num_groups: int) -> np.ndarray:
    result = np.full(num_groups, np.iinfo(np.int64).max)
    np.minimum.at(result, groups, clips)
    return result


def _earliest_of_other(groups: np.ndarray, videos: np.ndarray, earliest: np.ndarray) -> np.ndarray:
    """Return the first clip of another video than the group's first.

    The number of clips where there is none.
    """
    result = np.full(len(earliest), len(groups))
    others = np.flatnonzero(videos != videos[earliest[groups]])
    np.minimum.at(result, groups[others], others)
    return result


def _lower(best: np.ndarray, pairs: np.ndarray, values: np.ndarray) -> None:
    for a, b in (pairs, pairs[::-1]):
        np.minimum.at(best, a, values[b])


def _close_pairs(hashes: np.ndarray, max_distance: int) -> Iterator[np.ndarray]:
    """(2, k) indices of distinct hashes at most `max_distance` apart; a pair may come several times."""
    if not max_distance:
        return
    num_blocks = max_distance + _AGREEING_BLOCKS
    edges = [round(64 * i / num_blocks) for i in range(num_blocks + 1)]
    for blocks in combinations(pairwise(edges), _AGREEING_BLOCKS):
        # Sorting key and index as one number is several times as fast as an argsort of the keys.
        tagged = np.sort(_key(hashes, blocks) << np.uint64(32) | np.arange(len(hashes), dtype=np.uint64))
        for pair in _in_runs(tagged >> np.uint64(32)):
            a, b = (tagged[pair] & np.uint64(0xFFFFFFFF)).astype(np.int64)
            close = np.bitwise_count(hashes[a] ^ hashes[b]) <= max_distance
            yield np.stack([a[close], b[close]])


def _key(hashes: np.ndarray, blocks: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return the bits of some blocks side by side, the last 32 of them."""
    key = np.zeros_like(hashes)
    for low, high in blocks:
        block = hashes >> np.uint64(low) & np.uint64((1 << (high - low)) - 1)
        key = key << np.uint64(high - low) | block
    return key & np.uint64(0xFFFFFFFF)


def _in_runs(keys: np.ndarray) -> Iterator[np.ndarray]:
    """All pairs of equal keys, as (2, k) places in their ascending order: neighbours, then next but one, and so on."""
    step, left = 1, np.flatnonzero(keys[1:] == keys[:-1])
    while len(left):
        yield np.stack([left, left + step])
        step += 1
        left = left[left + step < len(keys)]
        left = left[keys[left] == keys[left + step]]
