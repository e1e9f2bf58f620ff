"""Shots that repeat an earlier one: openings, endings, recaps, footage that one video shows twice.

In another video, what looks alike is a repeat. In the same one it is as often the same place and the same people again,
so that there a repeat has to move alike, too: what hardly moves is none.

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
"""Layouts that differ in four bits agree in two of six blocks at least; of five moments one is as close as that."""
_MOST_COMPARED = 8
"""Of the shots that share blocks, each is compared with so many of the first, and so many of those just before it."""
_MOST_DISTANCES = np.array((10, 4, 16), np.uint8)
"""Bits by which layout, colour and detail of a moment may differ. Of 288 shots encoded anew 97 % were found so, and of
11,917 pairs of others and 30,628 of the sprite world none and one: a cyan square that shrinks, twice."""
_MOST_OTHER_MOMENTS, _LEAST_MOMENTS = 1, 3
"""Moments that may look different, and those that must not, of the ones that show something."""
_LEAST_MOVEMENT, _LEAST_STEP = 12, 4
"""By how many bits a moment of a shot that moves differs from its other moments: on average, and from the nearest."""
_MOST_OF_MOVEMENT = 0.4
"""How much a moment may differ from another shot's, as a share of how much the other moments of that do on average."""


def find_repeats(shot_ids: pa.Array, video_ids: pa.Array, phashes: pa.ListArray) -> pa.Array:
    """Return for each shot an earlier one that it repeats, "" for none: (n,) strings.

    What a shot repeats is never itself a repeat, and comes before it: adding videos at the end changes nothing before.

    Args:
        shot_ids: (n,) unique, in the order of the plan.
        video_ids: (n,) the video of each; shots of one video resemble each other by nature, and have to move alike.
        phashes: (n,) what `shot_phashes` gives; empty or null of shots that neither repeat nor are repeated.
    """
    hashes, told = _hashes(_plain(phashes))
    videos = np.asarray(_plain(video_ids).dictionary_encode().indices)[told]
    shots = _Shots(hashes, videos)
    originals = _originals(shots, _first_lookalikes(shots))
    found = np.full(len(phashes), -1)
    found[told] = np.where(originals < 0, -1, told[originals])
    return pc.fill_null(_plain(shot_ids).take(pa.array(found, mask=found < 0)), "")


def count_unlike(phashes: pa.ChunkedArray, most: int) -> int:
    """Return how many shots there are, of which no two look alike; counted up to `most`.

    Args:
        phashes: what `shot_phashes` gives of each; those without look like none.
        most: where to end.
    """
    hashes, told = _hashes(_plain(phashes))
    number = len(phashes) - len(told)
    unlike: list[int] = []
    for shot in range(len(hashes)):
        if number + len(unlike) >= most:
            break
        if not _alike(hashes, np.array(unlike, int), np.full(len(unlike), shot)).any():
            unlike.append(shot)
    return min(most, number + len(unlike))


def _plain(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _hashes(phashes: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """(m moments words) uint64 of the shots that have hashes, and their (m,) row numbers."""
    has = pc.fill_null(pc.equal(pc.list_value_length(phashes), NUM_MOMENTS * NUM_WORDS), False)
    values = np.asarray(phashes.filter(has).flatten(), np.int64).view(np.uint64)
    return values.reshape(-1, NUM_MOMENTS, NUM_WORDS), np.flatnonzero(np.asarray(has))


def _alike(hashes: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(k,) bool: whether the moments of two shots look alike."""
    one, other = hashes[a], hashes[b]
    shown = one.any(-1) & other.any(-1)
    near = shown & (np.bitwise_count(one ^ other) <= _MOST_DISTANCES).all(-1)
    return _enough(near, shown)


def _from_other_moments(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k moments) by how many bits each moment of a shot differs from the other moments of a shot: average, nearest."""
    total, num = np.zeros(one.shape[:2], int), np.zeros(one.shape[:2], int)
    nearest = np.full(one.shape[:2], NUM_WORDS * _BITS)
    for shift in range(1, NUM_MOMENTS):
        moments = np.roll(other, shift, 1)
        shown = moments.any(-1)
        distance = np.bitwise_count(one ^ moments).sum(-1, dtype=int)
        total, num = total + distance * shown, num + shown
        nearest = np.minimum(nearest, np.where(shown, distance, nearest))
    return total / num.clip(1), nearest


def _enough(moments: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(k,) bool: whether what is asked holds in so many moments of those that show something."""
    number = moments.sum(-1)
    return (number >= _LEAST_MOMENTS) & (number >= shown.sum(-1) - _MOST_OTHER_MOMENTS)


def _move(hashes: np.ndarray) -> np.ndarray:
    """(m,) bool: whether each of a shot's moments looks different from all others."""
    average, nearest = _from_other_moments(hashes, hashes)
    shown = np.asarray(hashes.any(-1))
    return _enough(shown & (average >= _LEAST_MOVEMENT) & (nearest >= _LEAST_STEP), shown)


def _move_alike(hashes: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(k,) bool: whether the moments of a shot that moves are found in another at the same place and nowhere else."""
    one, other = hashes[a], hashes[b]
    average, nearest = _from_other_moments(one, other)
    same, shown = np.bitwise_count(one ^ other).sum(-1), one.any(-1) & other.any(-1)
    return _enough(shown & (same <= _MOST_OF_MOVEMENT * average) & (same < nearest), shown)


class _Shots:
    """What shots are compared by: (m moments words) uint64 hashes, and the (m,) video of each."""

    def __init__(self, hashes: np.ndarray, videos: np.ndarray) -> None:
        self.hashes, self._videos, self._moves = hashes, videos, _move(hashes)

    def may_repeat(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(k,) bool: whether they are of two videos, or move: most shots of a video that look alike do not."""
        return (self._videos[a] != self._videos[b]) | (self._moves[a] & self._moves[b])

    def repeat(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(k,) bool: whether one of two shots that may repeats the other."""
        found = _alike(self.hashes, a, b)
        within = np.flatnonzero(found & (self._videos[a] == self._videos[b]))
        found[within] = _move_alike(self.hashes, a[within], b[within])
        return found


def _first_lookalikes(shots: _Shots) -> np.ndarray:
    """(m,) the first of the earlier shots that each was found to repeat, or m for none."""
    hashes = shots.hashes
    first = np.full(len(hashes), len(hashes))
    for moment in range(NUM_MOMENTS):
        layouts = np.ascontiguousarray(hashes[:, moment, 0])
        shown = np.flatnonzero(hashes[:, moment].any(-1))
        for earlier, later in _hinted_pairs(layouts[shown]):
            a, b = shown[earlier], shown[later]
            near = np.bitwise_count(layouts[a] ^ layouts[b]) <= _MOST_DISTANCES[0]
            near &= (a < first[b]) & shots.may_repeat(a, b)
            a, b = a[near], b[near]
            found = shots.repeat(a, b)
            np.minimum.at(first, b[found], a[found])
    return first


def _hinted_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of earlier and later hashes that agree in some blocks of bits; a pair may come several times."""
    edges = [round(_BITS * i / _NUM_BLOCKS) for i in range(_NUM_BLOCKS + 1)]
    for blocks in combinations(pairwise(edges), _AGREEING_BLOCKS):
        key = np.zeros_like(hashes)
        for low, high in blocks:
            key = key << np.uint64(high - low) | hashes >> np.uint64(low) & np.uint64((1 << (high - low)) - 1)
        # Sorting key and place as one number is several times as fast as an argsort of the keys.
        tagged = np.sort(key << np.uint64(32) | np.arange(len(hashes), dtype=np.uint64))
        keys, places = tagged >> np.uint64(32), (tagged & np.uint64(0xFFFFFFFF)).astype(np.int64)
        starts = np.flatnonzero(np.diff(keys, prepend=~keys[:1]))
        ranks = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
        for step in range(1, _MOST_COMPARED + 1):
            later = np.flatnonzero(ranks >= step)
            if not len(later):
                break
            yield places[later - step], places[later]
            later = later[ranks[later] >= _MOST_COMPARED + step]  # of the others these are among the last
            yield places[later - ranks[later] + step - 1], places[later]


def _originals(shots: _Shots, first: np.ndarray) -> np.ndarray:
    """(m,) what each shot repeats, or -1: what was found, or else what that repeats, if it repeats it, too."""
    originals = np.full(len(first), -1)
    for shot in np.flatnonzero(first < len(first)):
        seen = int(first[shot])
        if originals[seen] < 0:
            originals[shot] = seen
        else:
            root, this = originals[seen : seen + 1], np.array([shot])
            if (shots.may_repeat(root, this) & shots.repeat(root, this))[0]:
                originals[shot] = root[0]
    return originals
