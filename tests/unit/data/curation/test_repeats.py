import io
from itertools import combinations

import av
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from animatediff.data.curation.repeats import find_repeats
from animatediff.data.shots.hashes import NUM_MOMENTS, NUM_WORDS, shot_phashes
from tests import support_episodes as episodes
from tests import support_lookalikes as lookalikes
from tests.support_writing import subtitled, title

LENGTH = NUM_MOMENTS * NUM_WORDS
NUM_SHOTS = 10


def repeats(videos, phashes):
    """Of each shot the number of the one that it repeats, or None."""
    ids = pa.array([str(number) for number in range(len(videos))], pa.string())
    found = find_repeats(
        ids, pa.array([str(video) for video in videos], pa.string()), pa.array(phashes, pa.list_(pa.int64()))
    )
    return [int(name) if name else None for name in found.to_pylist()]


def random_hashes(rng):
    return tuple(int(word) for word in rng.integers(-(2**63), 2**63, LENGTH))


def flipped(rng, hashes, share):
    masks = (rng.random((LENGTH, 64)) < share) @ (2 ** np.arange(64, dtype=np.uint64))
    return tuple(int(word) for word in np.array(hashes) ^ masks.astype(np.uint64).view(np.int64))


def encoded(frames, *, crf, height, width, fps):
    """The frames as they come out of an H.264 file."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(crf), "preset": "ultrafast"}
        for frame in frames:
            picture = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def hashed(frames, *, fps=24):
    return shot_phashes(frames[:: fps // 8])


def smaller(rng, frames):
    return hashed(encoded(frames, crf=35, height=90, width=160, fps=24))


def with_subtitles(rng, frames):
    return hashed(encoded(subtitled(rng, frames), crf=28, height=216, width=384, fps=24))


def darker_from_another_frame_on(rng, frames):
    frames = (frames * 0.85).astype(np.uint8)
    return hashed(encoded(frames[3:] if rng.random() < 0.5 else frames[:-3], crf=28, height=108, width=192, fps=24))


def half_as_many_frames(rng, frames):
    return hashed(encoded(frames[::2], crf=28, height=180, width=320, fps=12), fps=12)


def all_at_once(rng, frames):
    frames = subtitled(rng, (frames[3:-3] * 0.85).astype(np.uint8))
    return hashed(encoded(frames[::2], crf=32, height=126, width=224, fps=12), fps=12)


@pytest.fixture(scope="module")
def opening():
    """Shots that several videos have, and their hashes: pans, drawn, filmed."""
    rng = np.random.default_rng(20)
    makers = (episodes._pan, episodes._drawn, episodes._real, episodes._sprites)
    shots = [makers[n % len(makers)](rng, int(rng.integers(40, 56))) for n in range(NUM_SHOTS)]
    return shots, [hashed(encoded(shot, crf=20, height=180, width=320, fps=24)) for shot in shots]


@pytest.mark.parametrize(
    "made_anew", [smaller, with_subtitles, darker_from_another_frame_on, half_as_many_frames, all_at_once]
)
def test_an_opening_is_known_again_when_it_was_encoded_anew(opening, made_anew):
    rng = np.random.default_rng(21)
    shots, originals = opening
    found = repeats([0] * NUM_SHOTS + [1] * NUM_SHOTS, originals + [made_anew(rng, shot) for shot in shots])
    assert found[:NUM_SHOTS] == [None] * NUM_SHOTS
    right = [number == place for place, number in enumerate(found[NUM_SHOTS:])]
    assert sum(right) >= 0.9 * NUM_SHOTS
    assert all(number in (None, place) for place, number in enumerate(found[NUM_SHOTS:]))


@pytest.mark.parametrize("made_anew", [smaller, with_subtitles])
def test_what_one_video_shows_twice_is_known_again(opening, made_anew):
    rng = np.random.default_rng(23)
    shots, originals = opening
    found = repeats([0] * 2 * NUM_SHOTS, originals + [made_anew(rng, shot) for shot in shots])
    assert found[:NUM_SHOTS] == [None] * NUM_SHOTS
    assert sum(number == place for place, number in enumerate(found[NUM_SHOTS:])) >= 0.8 * NUM_SHOTS
    assert all(number in (None, place) for place, number in enumerate(found[NUM_SHOTS:]))


def test_the_same_place_and_people_again_are_no_repeat_in_one_video():
    rng = np.random.default_rng(24)
    pairs = [kind(rng) for kind in lookalikes.KINDS]
    phashes = [hashed(shot) for pair in pairs for shot in pair]
    assert repeats([0] * len(phashes), phashes) == [None] * len(phashes)
    assert sum(number is not None for number in repeats([0, 1] * len(pairs), phashes)) >= 4  # or they do not resemble


def test_what_hardly_moves_is_no_repeat_in_one_video_and_is_one_in_another():
    rng = np.random.default_rng(0)
    moment = random_hashes(rng)[:NUM_WORDS]
    held = moment * NUM_MOMENTS
    changed_once = moment * 2 + random_hashes(rng)[:NUM_WORDS] * 3
    for shot in (held, changed_once):
        assert repeats([0, 0], [shot, flipped(rng, shot, 0.01)]) == [None, None]
        assert repeats([0, 1], [shot, flipped(rng, shot, 0.01)]) == [None, 0]


def test_of_3000_pairs_that_share_nothing_none_is_a_repeat():
    rng = np.random.default_rng(22)
    shots = [maker(rng, 5) for maker in (episodes._pan, episodes._drawn, episodes._sprites) for _ in range(20)]
    shots += [title(rng) for _ in range(12)]  # of one look, with other words
    shots += [np.clip(rng.normal(rng.uniform(0, 20), 3, (8, 90, 160, 3)), 0, 255).astype(np.uint8) for _ in range(6)]
    shots += [np.full((8, 90, 160, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(6)]
    assert len(list(combinations(shots, 2))) > 3000
    phashes = [shot_phashes(frames) for frames in shots]
    assert repeats(range(len(shots)), phashes) == [None] * len(shots)
    assert repeats([0] * len(shots), phashes) == [None] * len(shots)


def test_the_first_is_the_original_of_all():
    rng = np.random.default_rng(0)
    shot = random_hashes(rng)
    assert repeats([0, 1, 2, 3], [random_hashes(rng), shot, shot, flipped(rng, shot, 0.02)]) == [None, None, 1, 1]


def test_shots_without_hashes_repeat_nothing():
    shot = random_hashes(np.random.default_rng(0))
    assert repeats([0, 0, 1, 1], [shot, (), (), None]) == [None] * 4
    assert repeats([0, 1], [(0,) * LENGTH] * 2) == [None, None]
    assert repeats([], []) == []


def test_a_shot_whose_beginning_is_faded_is_known_by_its_other_moments():
    rng = np.random.default_rng(0)
    shot = random_hashes(rng)
    faded = (0,) * NUM_WORDS + shot[NUM_WORDS:]
    half = random_hashes(rng)[: 2 * NUM_WORDS] + shot[2 * NUM_WORDS :]
    assert repeats([0, 1, 2], [shot, faded, half]) == [None, 0, None]


def test_a_shot_in_a_thousand_videos_is_found_in_all_among_crowds():
    """Many shots share their blocks of bits; only some of them are compared, the right ones among them."""
    rng = np.random.default_rng(0)
    shared, crowd = random_hashes(rng), random_hashes(rng)
    phashes = [
        flipped(rng, shared, 0.01) if place == 0 else flipped(rng, crowd, 0.15)
        for _ in range(1000)
        for place in range(4)
    ]
    found = repeats(np.repeat(np.arange(1000), 4), phashes)
    assert np.mean([number == 0 for number in found[4::4]]) > 0.97
    assert [number for place in (1, 2, 3) for number in found[place::4] if number is not None] == []


@st.composite
def collections(draw):
    """Videos of shots that resemble few others, more or less."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centres = [random_hashes(rng) for _ in range(draw(st.integers(1, 3)))]
    sizes = draw(st.lists(st.integers(0, 4), max_size=6))
    share = draw(st.sampled_from([0, 0.01, 0.03, 0.1]))
    videos = [video for video, size in enumerate(sizes) for _ in range(size)]
    phashes = [flipped(rng, centres[rng.integers(len(centres))], share) if rng.random() < 0.9 else () for _ in videos]
    return videos, phashes


@settings(max_examples=25)
@given(collections(), st.integers(0, 24))
def test_videos_that_are_added_change_nothing_before(collection, length):
    videos, phashes = collection
    assert repeats(videos[:length], phashes[:length]) == repeats(videos, phashes)[:length]


@settings(max_examples=25)
@given(collections())
def test_what_is_repeated_is_earlier_and_itself_no_repeat(collection):
    videos, phashes = collection
    found = repeats(videos, phashes)
    for shot, original in enumerate(found):
        if original is not None:
            assert original < shot
            assert found[original] is None
