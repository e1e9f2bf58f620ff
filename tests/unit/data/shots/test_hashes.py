import numpy as np
import pytest

from animatediff.data.shots.hashes import NUM_MOMENTS, NUM_WORDS, shot_phashes
from tests import support_episodes as episodes


def bits(a, b):
    return [(one ^ other).bit_count() for one, other in zip(a, b, strict=True)]


def test_a_shot_has_hashes_for_each_moment_that_fit_the_shot_table():
    hashes = shot_phashes(episodes._drawn(np.random.default_rng(0), 16))
    assert len(hashes) == NUM_MOMENTS * NUM_WORDS
    assert all(-(2**63) <= word < 2**63 for word in hashes)


@pytest.mark.parametrize("num_frames", [1, 2, 4, 7])
def test_a_held_picture_has_the_same_hashes_in_shots_of_any_length(num_frames):
    picture = episodes._still(np.random.default_rng(0), 144, 256)
    assert shot_phashes(np.repeat(picture[None], num_frames, 0)) == shot_phashes(np.repeat(picture[None], 20, 0))


def test_what_shows_nothing_has_none():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 144).astype(np.uint8)[None, :, None, None]
    for frames in (
        np.zeros((0, 144, 256, 3), np.uint8),
        np.full((9, 144, 256, 3), 200, np.uint8),
        np.clip(rng.normal(6, 3, (9, 144, 256, 3)), 0, 255).astype(np.uint8),  # grain in the dark
        np.broadcast_to(ramp, (9, 144, 256, 3)).copy(),  # an empty sky
        (episodes._drawn(rng, 9) * 0.04).astype(np.uint8),  # too dark to see
    ):
        assert shot_phashes(frames) == ()


def test_moments_that_show_nothing_are_zeros():
    frames = np.repeat(episodes._still(np.random.default_rng(0), 144, 256)[None], 20, 0)
    frames[:4] = 0
    words = np.array(shot_phashes(frames)).reshape(NUM_MOMENTS, NUM_WORDS)
    assert not words[0].any()
    assert words[1:].any(1).all()
    frames[:12] = 0  # three of five moments
    assert shot_phashes(frames) == ()


def test_subtitles_change_nothing():
    frames = episodes._drawn(np.random.default_rng(0), 16)
    written = frames.copy()
    written[:, 140:170, 40:280] = 255
    assert bits(shot_phashes(frames), shot_phashes(written)) == [0] * NUM_MOMENTS * NUM_WORDS
