import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.plan import ResolutionSpan, frame_indices_at, plan_clips
from animatediff.data.clips.resize import crop_and_resize
from animatediff.data.scoring.measures import motion_score


def times(num, fps=25.0):
    return np.arange(num) / fps


def clip_times(timestamps, **config):
    plans = plan_clips(timestamps, (ResolutionSpan(0, 64, 64),), video_id="video", config=ClipConfig(**config))
    return [plan.times for plan in plans]


def indices(timestamps, **config):
    return [frame_indices_at(timestamps, t).tolist() for t in clip_times(timestamps, **config)]


def test_stride_counts_source_frames():
    assert indices(times(61), num_frames=16, stride=4) == [list(range(0, 61, 4))]
    assert indices(times(60), num_frames=16, stride=4) == []


def test_windows_spread_over_the_video_and_never_coincide():
    windows = indices(times(100), num_frames=4, stride=2, windows_per_video=3)
    assert [w[0] for w in windows] == [0, 46, 93]
    assert len(indices(times(8), num_frames=4, stride=2, windows_per_video=5)) == 2


@given(
    num_source=st.integers(1, 80),
    num_frames=st.integers(1, 8),
    stride=st.integers(1, 5),
    windows=st.integers(1, 6),
    fps=st.floats(5, 120),
)
def test_constant_rate_is_sampled_at_exact_strides(num_source, num_frames, stride, windows, fps):
    # Containers round timestamps to their time base.
    timestamps = (times(num_source, fps) * 90_000).round() / 90_000
    result = indices(timestamps, num_frames=num_frames, stride=stride, windows_per_video=windows)
    span = (num_frames - 1) * stride + 1
    assert len(result) == min(windows, max(0, num_source - span + 1))
    for window in result:
        assert np.all(np.diff(window) == stride)
        assert window[0] >= 0
        assert window[-1] < num_source


def test_variable_rate_is_sampled_by_time():
    # 1 s at 30 fps, then 1 s at 10 fps: the clip is even in time, so slow frames are held, not skipped over.
    timestamps = np.concatenate([times(30, 30), 1 + times(10, 10)])
    (window,) = clip_times(timestamps, num_frames=10, stride=5)
    assert np.allclose(np.diff(window), 5 / 30)
    shown = timestamps[frame_indices_at(timestamps, window)]
    assert np.all(window - shown < 0.1 + 1e-9)
    assert np.all(shown <= window + 1 / 60)


def test_fit_resizes_the_short_side_and_crops_the_centre():
    frame = np.zeros((40, 80, 3), np.uint8)
    frame[:, 20:60] = 255  # exactly the centre square
    assert (crop_and_resize(frame, height=16, width=16)[:, 1:-1] == 255).all()
    left_edge = crop_and_resize(frame, height=20, width=40)
    assert left_edge[:, :8].max() == 0
    assert left_edge.shape == (20, 40, 3)


@pytest.mark.parametrize("size", [(33, 57), (57, 33), (8, 200)])
def test_fit_gives_the_size_asked_for(size):
    assert crop_and_resize(np.zeros((*size, 3), np.uint8), height=24, width=16).shape == (24, 16, 3)


def test_motion_score():
    still = np.full((4, 8, 8, 3), 7, np.uint8)
    assert motion_score(still) == 0
    flashing = still.copy()
    flashing[::2] = 255
    flashing[1::2] = 0
    assert motion_score(flashing) == 1
    assert motion_score(still[:1]) == 0
