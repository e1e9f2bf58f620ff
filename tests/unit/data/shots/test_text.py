import zlib

import numpy as np
import pytest
from PIL import Image

from animatediff.data.shots.text import text_score
from tests import support_episodes as episodes
from tests.support_writing import HEIGHT, PATTERNS, WIDTH, WRITTEN, subtitled

NUM_CASES = 10
LEAST_SHARE = 0.9

SCENES = {
    "pan": lambda rng: episodes._pan(rng, 24)[::4],
    "drawn": lambda rng: episodes._drawn(rng, 6),
    "sprites": lambda rng: episodes._sprites(rng, 6),
    "filmed": lambda rng: episodes._real(rng, 24)[::4],
}


def small(frames):
    return np.stack([np.asarray(Image.fromarray(f).resize((WIDTH, HEIGHT), Image.Resampling.BOX)) for f in frames])


NOT_WRITTEN = {
    **{name: lambda rng, make=make: small(make(rng)) for name, make in SCENES.items()},
    **{f"{name}, subtitled": lambda rng, make=make: subtitled(rng, small(make(rng))) for name, make in SCENES.items()},
    **PATTERNS,
}


def scores(kind, make):
    return np.array([text_score(make(np.random.default_rng([zlib.crc32(kind.encode()), n]))) for n in range(NUM_CASES)])


@pytest.mark.parametrize("kind", WRITTEN)
def test_titles_and_credits_are_written(kind):
    assert (scores(kind, WRITTEN[kind]) >= 0.5).mean() >= LEAST_SHARE


@pytest.mark.parametrize("kind", NOT_WRITTEN)
def test_scenes_are_not_even_with_subtitles(kind):
    assert (scores(kind, NOT_WRITTEN[kind]) < 0.5).mean() >= LEAST_SHARE


@pytest.mark.parametrize("shape", [(0, 144, 256, 3), (1, 144, 256, 3), (3, 2, 2, 3), (2, 1, 300, 3)])
@pytest.mark.parametrize("level", [0, 255])
def test_an_empty_picture_of_any_size_is_not_written(shape, level):
    assert text_score(np.full(shape, level, np.uint8)) == 0.0


def test_words_as_bright_as_their_ground_are_seen():
    title = WRITTEN["title"](np.random.default_rng(1))
    ink = np.abs(title - title[:, :1, :1].astype(int)).sum(-1, keepdims=True) > 200
    frames = np.where(ink, (30, 112, 60), (200, 30, 60)).astype(np.uint8)  # both of luma 82
    assert text_score(frames) >= 0.5
