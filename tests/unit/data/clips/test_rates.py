import numpy as np
import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.plan import ResolutionSpan, frame_indices_at, plan_clips
from animatediff.data.clips.rates import fit_rate
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import load_decoders
from tests.support import encode, numbered_frames, read_number
from tests.support_videos import rounded

BOTH = load_decoders(["decord", "pyav"])
RATES = (23.976, 24, 25, 29.97, 30, 50, 59.94, 60, 120)


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("count", [130, 43_000])  # seconds, and 24 minutes
def test_the_rate_of_milliseconds_is_the_true_one(fps, count):
    assert 1 / fit_rate(rounded(count, fps)).frame_s == pytest.approx(fps, rel=1e-4)
    assert 1 / fit_rate(np.floor(rounded(count, fps, 1e6) * 1000) / 1000).frame_s == pytest.approx(fps, rel=1e-4)


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("windows", ["grid", "random", "all"])
def test_a_stride_counts_frames_in_milliseconds_too(fps, windows):
    timestamps = fit_rate(rounded(700, fps)).timestamps
    config = ClipConfig(num_frames=32, stride=4, windows=windows, windows_per_video=4)
    plans = plan_clips(timestamps, (ResolutionSpan(0, 64, 64),), video_id="v", config=config)
    assert len(plans) == 4
    assert all((np.diff(frame_indices_at(timestamps, plan.times)) == 4).all() for plan in plans)


def test_fps_of_half_the_sources_takes_every_second_frame():
    timestamps = fit_rate(rounded(300, 60)).timestamps
    (plan,) = plan_clips(
        timestamps, (ResolutionSpan(0, 64, 64),), video_id="v", config=ClipConfig(num_frames=64, fps=30.0)
    )
    assert set(np.diff(frame_indices_at(timestamps, plan.times))) == {2}


def drifting(count):
    return np.round(np.cumsum(1 / (30 + 0.3 * np.sin(np.arange(count) / 900))) * 1000) / 1000


def telecined(count, first):
    """Film, each picture for two fields or three in turn, in milliseconds."""
    fields = np.where(np.arange(count) % 2 == 0, first, 5 - first)
    return np.round(np.cumsum(fields) * 1001 / 60) / 1000


def jittering(count):
    return np.round((np.arange(count) / 30 + np.random.default_rng(0).uniform(-0.004, 0.004, count)) * 1000) / 1000


@pytest.mark.parametrize(
    ("timestamps", "fps"),
    [
        (rounded(5000, 29.97)[np.random.default_rng(0).random(5000) > 0.05], 29.97),  # dropped frames
        (rounded(5000, 29.97) + 37.77 * (np.arange(5000) > 2000), 29.97),  # a pause
        (jittering(3000), 30),
        (drifting(9000), 30),
        (np.cumsum([0, *[1 / 30] * 300, *[1 / 24] * 290]), 30),  # two rates: the more frequent one, as ever
        (np.arange(9) / 25, 25),
        *((telecined(count, first), 24000 / 1001) for count in (79, 80, 500) for first in (2, 3)),
    ],
    ids=[*("drops", "pause", "jitter", "drift", "two rates", "few"), *(f"film {n}" for n in range(6))],
)
def test_what_is_no_constant_rate_keeps_its_times(timestamps, fps):
    rate = fit_rate(timestamps)
    assert 1 / rate.frame_s == pytest.approx(fps, rel=5e-3)
    assert np.abs(rate.timestamps - timestamps).max() < 0.25 * rate.frame_s
    assert (np.diff(rate.timestamps) > 0).all()


def test_exact_timestamps_stay_as_they_are():
    for timestamps in (np.arange(100) * 512 * (1 / 12_800), np.round(np.arange(99) * 3753.75) * (1 / 90_000)):
        assert fit_rate(timestamps).timestamps is timestamps
    assert fit_rate(np.array([3.0])).frame_s == 0


@pytest.mark.parametrize(("container", "codec"), [("matroska", "libx264"), ("webm", "libvpx-vp9"), ("flv", "libx264")])
def test_containers_of_milliseconds_give_even_clips(container, codec):
    options = {"preset": "ultrafast"} if codec == "libx264" else {"cpu-used": "8", "deadline": "realtime"}
    data = encode(numbered_frames(130), codec=codec, container=container, fps=30, options=options)
    (window,) = cut_clips("v", data, ClipConfig(num_frames=32, stride=4, height=64, width=96), BOTH)
    assert set(np.diff([read_number(frame) for frame in window.frames])) == {4}
    assert window.fps_src == pytest.approx(30, rel=1e-4)
