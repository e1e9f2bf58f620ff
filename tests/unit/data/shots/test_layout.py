import numpy as np
import pytest
from PIL import Image

from animatediff.data.shots.detectors.layout import SIDE, LayoutDetector
from tests.support_episodes import build_episode, title_card


def small(frames):
    return [np.asarray(Image.fromarray(f).resize((SIDE, SIDE), Image.Resampling.BOX)) for f in frames]


def found_in(pictures):
    """All borders, and how far behind the last frame each was told."""
    finder, borders, latest = LayoutDetector(), [], []
    for number, picture in enumerate(pictures):
        before = finder.settled
        new = finder.add(picture)
        assert all(before <= border.first < finder.settled for border in new)
        borders += new
        latest.append(number - finder.settled)
    borders += finder.finish()
    assert finder.settled == len(pictures)
    assert borders == sorted(borders)
    return borders, max(latest)


@pytest.fixture(scope="module")
def episode():
    return build_episode(8, num_shots=16)


def test_borders_are_found_and_traps_are_none(episode):
    borders, latest = found_in(small(episode.frames))
    missed = [b for b in episode.borders if not any(f.first <= b.last + 2 and f.last >= b.first - 2 for f in borders)]
    false = [f for f in borders if not any(f.first <= b.last + 2 and f.last >= b.first - 2 for b in episode.borders)]
    assert len(episode.borders) == 15
    assert missed == []
    assert false == []
    cuts = {b.first for b in episode.borders if b.kind == "cut"}
    assert {f.first for f in borders if f.kind == "cut"} == cuts
    assert latest < 260


def test_kinds_are_told_apart(episode):
    borders, _ = found_in(small(episode.frames))
    kinds = [
        (truth.kind, found.kind)
        for truth in episode.borders
        for found in borders
        if found.first <= truth.last and found.last >= truth.first
    ]
    assert {pair for pair in kinds if pair[0] != pair[1]} == set()


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_is_no_border(episode, level, length):
    frames = episode.frames[: episode.borders[0].first - 1]
    pictures = small(np.concatenate([frames, frames[::-1], frames]))
    pictures[len(frames) + 4 : len(frames) + 4 + length] = [np.full((SIDE, SIDE, 3), level, np.uint8)] * length
    assert found_in(pictures)[0] == []


def test_no_more_is_kept_than_a_few_hundred_frames():
    """Not of a picture that shimmers for ever, each frame a mix of its neighbours, nor of lasting black."""
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, SIDE, SIDE, 3))
    shares = np.abs(np.arange(350) % 32 / 16 - 1)
    shimmer = [(one * share + other * (1 - share)).astype(np.uint8) for share in shares]
    black = [np.zeros((SIDE, SIDE, 3), np.uint8)] * 250
    assert found_in(shimmer + black)[1] < 430


@pytest.mark.parametrize("seed", [0, 1])
def test_title_cards_that_look_alike_are_told_apart(seed):
    rng = np.random.default_rng(seed)
    cards = np.concatenate([title_card(rng, 30) for _ in range(3)])
    assert [border[:3] for border in found_in(small(cards))[0]] == [(30, 30, "cut"), (60, 60, "cut")]


def test_an_empty_video_has_no_borders():
    assert LayoutDetector().finish() == []
