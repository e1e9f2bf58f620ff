from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from animatediff.config import dump, load, parse
from animatediff.data.clips.config import ClipConfig, bucket_name
from animatediff.data.clips.plan import ResolutionSpan, frame_indices_at, plan_clips
from animatediff.data.clips.rates import fit_rate


def constant(num, fps=25.0):
    return np.arange(num) / fps


def plan(timestamps, *, source=(640, 360), key="v", **config):
    return plan_clips(timestamps, (ResolutionSpan(0, *source),), video_id=key, config=ClipConfig(**config))


def starts(plans):
    return [float(p.times[0]) for p in plans]


# A variable frame rate: every frame is on screen for 1 to 12 hundredths of a second.
VARIABLE = st.lists(st.integers(1, 12), min_size=1, max_size=80).map(lambda d: np.cumsum([0, *d]) / 100)
CONSTANT = st.builds(constant, st.integers(1, 80), st.floats(5, 120))
RATE = st.one_of(st.builds(dict, stride=st.integers(1, 5)), st.builds(dict, fps=st.floats(1, 60)))
HOW = {"num_frames": st.integers(1, 8), "windows": st.sampled_from(["grid", "random", "all"])}


@settings(max_examples=60)
@given(timestamps=VARIABLE | CONSTANT, rate=RATE, number=st.none() | st.integers(1, 6), **HOW)
def test_windows_lie_in_the_video_start_on_frames_and_differ(timestamps, rate, number, num_frames, windows):
    plans = plan(timestamps, num_frames=num_frames, windows=windows, windows_per_video=number, **rate)
    frame = fit_rate(timestamps).frame_s
    step = 1 / rate["fps"] if "fps" in rate else frame * rate["stride"]
    for p in plans:
        assert p.times[0] in timestamps
        assert p.times[-1] <= timestamps[-1] + frame / 2 + 1e-9
        assert np.allclose(np.diff(p.times), step)
    assert len(set(starts(plans))) == len(plans) <= (number or (1 if windows != "all" else len(timestamps)))
    assert [p.index for p in plans] == list(range(len(plans)))
    longer = timestamps[-1] - timestamps[0] >= step * (num_frames - 1)
    assert plans if longer and len(timestamps) > 1 else True


@settings(max_examples=60)
@given(timestamps=VARIABLE | CONSTANT, rate=RATE, num_frames=st.integers(1, 8))
def test_all_windows_stand_back_to_back(timestamps, rate, num_frames):
    plans = plan(timestamps, num_frames=num_frames, windows="all", **rate)
    if len(timestamps) < 2 or not plans:
        return
    frame = fit_rate(timestamps).frame_s
    step = 1 / rate["fps"] if "fps" in rate else frame * rate["stride"]
    length = step * num_frames
    assert all(a.times[-1] < b.times[0] for a, b in pairwise(plans))
    # Every frame begins in a window, save those of a rest that is shorter than one.
    begin = np.array(starts(plans))
    last = begin[np.searchsorted(begin, timestamps + 1e-9, side="right") - 1]
    missed = timestamps[timestamps >= last + length + 1e-9]
    assert len(missed) == 0 or (missed[0] > begin[-1] and missed[-1] - missed[0] < length)


def test_all_windows_of_a_constant_rate():
    assert starts(plan(constant(100), num_frames=5, stride=4, windows="all")) == pytest.approx([0, 0.8, 1.6, 2.4, 3.2])
    assert len(plan(constant(100), num_frames=5, stride=4, windows="all", windows_per_video=2)) == 2


@settings(max_examples=60)
@given(number=st.integers(1, 10), more=st.integers(1, 10), key=st.text(max_size=5), seed=st.integers(0, 3))
def test_random_windows_depend_on_the_video_alone_and_more_keep_the_earlier(number, more, key, seed):
    few = plan(constant(90), key=key, seed=seed, windows="random", windows_per_video=number)
    many = plan(constant(90), key=key, seed=seed, windows="random", windows_per_video=number + more)
    assert starts(many)[:number] == starts(few)
    assert len(many) == number + more


def test_random_windows_differ_between_videos_and_seeds_and_cover_the_video():
    def draw(**kwargs):
        return starts(plan(constant(1000), windows="random", windows_per_video=5, **kwargs))

    assert draw(key="a") != draw(key="b")
    assert draw(key="a") != draw(key="a", seed=1)
    assert len(plan(constant(61), windows="random", windows_per_video=9)) == 1
    everywhere = [start for i in range(40) for start in draw(key=str(i))]
    assert min(everywhere) < 3
    assert max(everywhere) > 34


def test_fps_samples_every_source_alike():
    for source in (24, 25, 30, 60):
        (clip,) = plan(constant(source * 3, source), fps=8)
        assert np.allclose(clip.times, np.arange(16) / 8)
        shown = frame_indices_at(constant(source * 3, source), clip.times) / source
        assert np.abs(shown - clip.times).max() <= 0.55 / source + 1e-9


def test_more_frames_a_second_than_the_source_has_hold_its_frames():
    (clip,) = plan(constant(10, 5), num_frames=10, fps=10)
    assert frame_indices_at(constant(10, 5), clip.times).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_flipped_copies_follow_their_originals():
    plans = plan(constant(200), windows_per_video=2, flip=True)
    assert [p.flip for p in plans] == [False, True, False, True]
    assert [p.index for p in plans] == [0, 1, 2, 3]
    assert starts(plans)[0] == starts(plans)[1] != starts(plans)[2]


def test_the_longest_length_that_fits_is_taken():
    lengths = {n: len(plan(constant(n), lengths=(8, 24))[0].times) for n in (29, 60, 61, 92, 93, 500)}
    assert lengths == {29: 8, 60: 8, 61: 16, 92: 16, 93: 24, 500: 24}
    assert plan(constant(28), lengths=(8, 24)) == []


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1920, 1080, (192, 320)),
        (1080, 1920, (320, 192)),
        (500, 500, (512, 512)),  # 500 is too small for 512, but 512 x 512 has no equal here
        (600, 600, (512, 512)),
        (640, 480, (256, 320)),
    ],
)
def test_the_closest_aspect_ratio_is_taken(width, height, expected):
    config = {"height": 512, "width": 512, "sizes": ((192, 320), (320, 192), (256, 320))}
    (clip,) = plan(constant(61), source=(width, height), **config)
    assert (clip.height, clip.width) == expected
    assert clip.bucket == bucket_name(16, *expected) == f"16x{expected[0]}x{expected[1]}"


@pytest.mark.parametrize(("side", "expected"), [(600, 512), (512, 512), (511, 256), (256, 256), (100, 256)])
def test_among_equal_ratios_the_largest_without_upscaling_is_taken(side, expected):
    (clip,) = plan(constant(61), source=(side, side), sizes=((512, 512), (1024, 1024)))
    assert clip.height == expected


def test_aspect_ratios_give_sizes_of_about_one_area():
    config = ClipConfig(height=512, width=512, aspect_ratios=(16 / 9, 4 / 3, 1, 9 / 16))
    assert config.all_sizes == [(512, 512), (384, 704), (448, 576), (704, 384)]
    assert ClipConfig(height=24, width=24, aspect_ratios=(2,)).all_sizes == [(24, 24), (16, 32)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fps": 8, "stride": 2}, "fps 8 and stride 2 both set the frame rate"),
        ({"fps": 0}, "greater than 0"),
        ({"aspect_ratios": [969]}, "less than or equal to 5"),  # YAML reads 16:9 so
        ({"lengths": [0]}, "greater than or equal to 1"),
        ({"windows": "some"}, "grid"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        ClipConfig(**fields)


def test_the_config_survives_yaml_and_the_command_line(tmp_path):
    config = ClipConfig(fps=8, sizes=((192, 320),), lengths=(8,), aspect_ratios=(1.5,), windows="all", flip=True)
    path = tmp_path / "clips.yaml"
    path.write_text(dump(config))
    assert load(ClipConfig, str(path)) == config
    assert parse(ClipConfig, ["--config", str(path), "--windows-per-video", "3"]).windows_per_video == 3
    assert parse(ClipConfig, ["--sizes", "192", "320", "320", "192"]).sizes == ((192, 320), (320, 192))
