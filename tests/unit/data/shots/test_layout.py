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


def dissolved(before, after, num):
    """The last and the first `num` frames mixed."""
    share = ((np.arange(num) + 1) / (num + 1))[:, None, None, None]
    mixed = before[-num:] * (1 - share) + after[:num] * share
    return np.concatenate([before[:-num], mixed.round().astype(np.uint8), after[num:]])


@pytest.fixture(scope="module")
def shots(episode):
    """Small frames of four shots of the episode, each there and back."""
    ends, begins = [b.last for b in episode.borders], [b.first for b in episode.borders[1:]]
    taken = [(end, begin) for end, begin in zip(ends, begins, strict=False) if begin - end >= 40]
    pictures = [np.stack(small(episode.frames[end:begin])) for end, begin in taken]
    return [np.concatenate([shot, shot[::-1]]) for shot in pictures]


@pytest.mark.parametrize("num", [6, 12, 24, 36, 48])
@pytest.mark.parametrize(("before", "after"), [(0, 1), (2, 3)])
def test_a_dissolve_is_found_in_its_length(shots, before, after, num):
    pictures = dissolved(shots[before], shots[after], num)
    (border,), _ = found_in(list(pictures))
    first = len(shots[before]) - num
    assert border.kind == "dissolve"
    assert border.first - 10 <= first  # what margins leave out besides
    assert border.last + 10 >= first + num


def test_a_dissolve_that_ends_at_a_cut_goes_up_to_it(shots):
    pictures = np.concatenate([dissolved(shots[0], shots[1][:30], 24), shots[2]])
    borders, _ = found_in(list(pictures))
    assert borders[0].kind == "dissolve"
    assert borders[-1].first <= len(shots[0]) + 6 <= borders[-1].last


@pytest.mark.parametrize("factors", [(0.4, 0.4, 0.4), (0.9, 0.5, 0.3)])
def test_a_change_of_light_is_no_border(shots, factors):
    share = np.clip((np.arange(80) - 30) / 16, 0, 1)[:, None, None, None]
    lit = shots[0][:1].repeat(80, axis=0) * (1 - share + share * np.array(factors))
    assert found_in(list(lit.astype(np.uint8)))[0] == []


def test_dark_shots_dissolve_too(shots):
    before, after = ((shot[:1] * 0.25).astype(np.uint8).repeat(42, 0) for shot in (shots[0], shots[1]))
    borders, _ = found_in(dissolved(before, after, 12))
    assert [border.kind for border in borders] == ["dissolve"]
    assert abs(borders[0].first - 30) <= 6
    assert abs(borders[0].last - 42) <= 6


@pytest.mark.parametrize("on", [1, 2, 3, 4])
def test_drawings_that_are_wholly_other_ones_are_no_borders(shots, on):
    """As of lines of speed: each differs from the last as much as the first does from the shot before."""
    noise = np.random.default_rng(0).integers(0, 256, (60 // on, SIDE // 4, SIDE // 4, 3)).astype(np.uint8)
    boiling = list(noise.repeat(4, 1).repeat(4, 2).repeat(on, 0))
    borders, _ = found_in([*shots[0], *boiling, *shots[1]])
    first = len(shots[0])
    assert [border.first for border in borders] == [first, first + len(boiling)]


@pytest.mark.parametrize("shares", [(1,) * 8, (0.5, 1, 1, 0.7, 0.45, 0.2)])
def test_a_glare_is_no_border_if_the_same_is_to_be_seen_behind_it(shots, shares):
    picture = shots[0][0].astype(np.float32)
    glare = [(picture * (1 - share) + 255 * share).astype(np.uint8) for share in shares]
    assert found_in([shots[0][0]] * 30 + glare + [shots[0][0]] * 30)[0] == []
    borders, _ = found_in([shots[0][0]] * 30 + glare + [shots[1][0]] * 30)
    assert borders
    assert 30 - 2 <= borders[0].first <= borders[-1].last <= 30 + len(glare) + 2


@pytest.mark.parametrize("num", [6, 12, 24])
@pytest.mark.parametrize("form", ["right", "down", "iris", "doors"])
def test_wipes_are_found(shots, form, num):
    x, y = np.arange(SIDE)[None, :, None] / SIDE, np.arange(SIDE)[:, None, None] / SIDE
    places = {"right": x + 0 * y, "down": y + 0 * x, "iris": np.hypot(x - 0.5, y - 0.5) * 1.4, "doors": abs(2 * x - 1)}
    before, after = shots[0], shots[1]
    mixed = [
        np.where(places[form] < (t + 1) / (num + 1), after[t], before[-num + t]).astype(np.uint8) for t in range(num)
    ]
    borders, _ = found_in([*before[:-num], *mixed, *after[num:]])
    begin = len(before) - num
    assert borders
    assert all(begin - 11 <= border.first <= border.last <= begin + num + 11 for border in borders)


def test_a_fade_that_never_is_black_is_one_border(shots):
    down = np.minimum(1, np.arange(40)[::-1] / 7 + 1 / 7)[:, None, None, None]
    pictures = np.concatenate([shots[0][:40] * down, shots[1][:40] * down[::-1]]).astype(np.uint8)
    (border,), _ = found_in(list(pictures))
    assert border.kind != "cut"
    assert border.first - 10 <= 34
    assert border.last + 10 >= 46
