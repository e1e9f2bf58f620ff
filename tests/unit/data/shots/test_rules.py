import numpy as np
import pytest

from animatediff.data.shots.config import ShotConfig
from animatediff.data.shots.detectors import Border
from animatediff.data.shots.rules import TakeRules

FPS = 24
CONFIG = ShotConfig(min_s=2, max_s=20, cut_margin=1, soft_margin=10)


def takes(borders, num_frames, *, every=1000, config=CONFIG, timestamps=None, unit=1):
    """What the rules give when they hear of the borders every so many frames."""
    times = np.arange(num_frames) / FPS if timestamps is None else timestamps
    rules = TakeRules(config, times, margin_unit=unit)
    found, told = [], 0
    for settled in range(every, num_frames, every):
        new = [b for b in borders[told:] if b.first < settled]
        told += len(new)
        found += rules.add(new, settled)
    found += rules.add(borders[told:], num_frames)
    return found + list(rules.finish(num_frames))


def test_margins_lie_between_borders_and_takes():
    borders = [Border(100, 100, "cut", 0.4), Border(200, 212, "dissolve", 1.0), Border(300, 300, "cut", 0.7)]
    assert takes(borders, 400) == [
        (0, 99, "start", "cut", 0.4),
        (101, 190, "cut", "dissolve", 0.4),
        (222, 299, "dissolve", "cut", 0.7),
        (301, 400, "cut", "end", 0.7),
    ]


def test_margins_count_frames_of_a_lower_rate():
    assert takes([Border(99, 100, "cut", 1.0)], 400, unit=2)[0][:2] == (0, 97)


def test_borders_close_to_each_other_leave_nothing_between_them():
    borders = [Border(100, 100, "cut", 0.5), Border(101, 101, "cut", 0.6), Border(105, 120, "fade", 1.0)]
    found = takes(borders, 200)
    assert [take[:2] for take in found] == [(0, 99), (130, 200)]
    assert found[1].before == "fade"


@pytest.mark.parametrize("every", [7, 128, 5000])
@pytest.mark.parametrize("length_s", [20, 21, 22.5, 45, 61, 83.2])
def test_long_takes_are_split_alike_whenever_they_are_told(every, length_s):
    num_frames = round(length_s * FPS)
    found = takes([], num_frames, every=every)
    assert found == takes([], num_frames, every=10**6)
    assert [take.first for take in found] == [0, *(take.end for take in found[:-1])]
    assert found[-1].end == num_frames
    lengths = [(take.end - take.first) / FPS for take in found]
    assert max(lengths) <= CONFIG.max_s
    assert min(lengths) >= CONFIG.min_s
    assert [(take.before, take.after) for take in found[1:-1]] == [("split", "split")] * (len(found) - 2)


def test_splits_go_by_time_where_the_rate_varies():
    timestamps = np.concatenate([np.arange(240) / 24, 10 + np.arange(360) / 60, 16 + np.arange(120) / 12])
    found = takes([], len(timestamps), timestamps=timestamps, config=ShotConfig(max_s=10))
    assert [round(float(timestamps[take.first]), 2) for take in found] == [0, 10, pytest.approx(18, abs=2)]


def test_takes_are_told_as_soon_as_they_are_sure():
    rules = TakeRules(CONFIG, np.arange(10_000) / FPS, margin_unit=1)
    assert list(rules.add([], 500)) == []
    (piece,) = rules.add([], 540)
    assert piece[:4] == (0, 480, "start", "split")
    assert rules.first == 480


def test_a_longest_shot_below_the_shortest_is_refused():
    with pytest.raises(ValueError, match="max_s 1 is less than min_s 2"):
        ShotConfig(max_s=1)
    with pytest.raises(ValueError, match="no detector 'layouts', known are layout"):
        ShotConfig(detector="layouts")
