import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff.data.scoring.duplicates import find


def near(hashes, *, videos=None, ignored=None, max_distance=3):
    n = len(hashes)
    found = find(
        [str(i) for i in range(n)],
        [f"content {i}" for i in range(n)],
        np.array(hashes, np.uint64).view(np.int64),
        videos=np.arange(n) if videos is None else np.array(videos),
        ignored=np.zeros(n, bool) if ignored is None else np.array(ignored),
        max_distance=max_distance,
    )
    assert found.exact.to_pylist() == [""] * n
    return found.near.to_pylist()


def by_comparing_all(hashes, videos, ignored, max_distance):
    def first(i):
        for j in range(i):
            alike = (hashes[i] ^ hashes[j]).bit_count() <= max_distance
            if alike and videos[i] != videos[j] and not ignored[i] and not ignored[j]:
                return str(j)
        return ""

    return [first(i) for i in range(len(hashes))]


@settings(max_examples=60)
@given(st.data())
def test_finds_what_comparing_all_pairs_finds(data):
    centres = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
    flips = st.sets(st.integers(0, 63), max_size=5).map(lambda bits: sum(1 << bit for bit in bits))
    hashes = data.draw(st.lists(st.builds(int.__xor__, st.sampled_from(centres), flips), max_size=12))
    videos = data.draw(st.lists(st.integers(0, 3), min_size=len(hashes), max_size=len(hashes)))
    ignored = data.draw(st.lists(st.booleans(), min_size=len(hashes), max_size=len(hashes)))
    max_distance = data.draw(st.integers(0, 8))
    expected = by_comparing_all(hashes, videos, ignored, max_distance)
    assert near(hashes, videos=videos, ignored=ignored, max_distance=max_distance) == expected


def test_exact_duplicates_name_the_first():
    found = find(
        ["a", "b", "c", "d"], ["x", "y", "x", "x"], np.zeros(4, int), videos=np.arange(4), ignored=np.ones(4, bool)
    )
    assert found.exact.to_pylist() == ["", "", "a", "a"]
    assert found.near.to_pylist() == [""] * 4


def test_blank_clips_resemble_nothing():
    assert near([0, 0, 0], ignored=[True, False, False]) == ["", "", "1"]


def test_clips_of_one_video_are_no_duplicates_of_each_other_but_of_other_videos():
    assert near([5, 5, 5, 5], videos=[0, 0, 1, 0]) == ["", "", "0", "2"]


def test_a_chain_leaves_its_first_clip():
    assert near([0, 0b111, 0b111111]) == ["", "0", "1"]


def test_random_hashes_are_no_duplicates_and_planted_ones_are_found():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 20_000, dtype=np.uint64)
    for copy, bits in ((19_000, [3, 20, 40]), (19_001, [61, 62, 63]), (19_002, [0, 1])):
        hashes[copy] = hashes[copy - 19_000] ^ np.uint64(sum(1 << bit for bit in bits))
    found = near(hashes)
    assert {i: name for i, name in enumerate(found) if name} == {19_000: "0", 19_001: "1", 19_002: "2"}


def test_no_clips_and_a_distance_out_of_range():
    assert near([]) == []
    with pytest.raises(ValueError, match="0 to 8"):
        near([1], max_distance=9)
