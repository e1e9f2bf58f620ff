from typing import get_args

import numpy as np
import pytest

from animatediff.data.clips.camera import CameraMove
from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.quarantine import Reason, VideoError
from tests.support import bar_position, encode, gradient_frames, mp4, numbered_frames, read_number

DECODERS = load_decoders(["decord", "pyav"])
CONFIG = ClipConfig(num_frames=4, stride=2, height=64, width=96, windows_per_video=3)


class Counting:
    """PyAV that notes which frames were asked for."""

    name = "counting"

    def __init__(self):
        self.asked = []

    def supports(self, info):
        return True

    def frames(self, data, info, indices, *, height, width):
        self.asked.append(indices.tolist())
        return DECODERS[1].frames(data, info, indices, height=height, width=width)


def test_windows_show_the_planned_frames():
    data = encode(numbered_frames(31), codec="libx264", gop=12)
    windows = cut_clips("a", data, CONFIG, DECODERS)
    shown = [[read_number(frame) for frame in window.frames] for window in windows]
    assert shown == [[0, 2, 4, 6], [12, 14, 16, 18], [24, 26, 28, 30]]
    first, _, last = windows
    assert [clip.index for clip in windows] == [0, 1, 2]
    assert (first.t_start, first.t_end) == (0.0, pytest.approx(6 / 25))
    assert (last.t_start, last.fps_src) == (pytest.approx(24 / 25), pytest.approx(25))
    assert (first.bucket, first.decoder, first.flip) == ("4x64x96", "decord", False)
    assert first.scores["motion"] > 0


def test_a_frame_that_windows_share_is_decoded_once():
    counting = Counting()
    assert len(cut_clips("a", mp4(9), CONFIG, [counting])) == 3
    assert counting.asked == [list(range(9))]


def test_mirrored_copies():
    plain, mirrored = cut_clips("a", mp4(8), CONFIG.model_copy(update={"flip": True, "windows_per_video": 1}), DECODERS)
    assert (plain.flip, mirrored.flip, mirrored.index) == (False, True, 1)
    assert np.array_equal(plain.frames[:, :, ::-1], mirrored.frames)
    assert bar_position(plain.frames[0]) < 0.5 < bar_position(mirrored.frames[0])


def test_the_size_follows_the_aspect_ratio_as_displayed():
    config = CONFIG.model_copy(update={"sizes": ((96, 64),)})
    wide, tall = mp4(8), mp4(8, height=96, width=64)
    assert cut_clips("a", wide, config, DECODERS)[0].frames.shape == (4, 64, 96, 3)
    assert cut_clips("a", tall, config, DECODERS)[0].frames.shape == (4, 96, 64, 3)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (CONFIG, "1 frames in 0.00 s, one clip takes 7 frames"),
        (ClipConfig(num_frames=4, fps=8.0), "one clip takes 0.38 s"),
    ],
)
def test_too_short(config, says):
    with pytest.raises(VideoError) as caught:
        cut_clips("a", encode(gradient_frames(1), codec="libx264"), config, DECODERS)
    assert (caught.value.stage, caught.value.reason) == ("probe", Reason.TOO_SHORT)
    assert says in caught.value.detail


def test_decoders_are_tried_in_order_and_announced():
    class Broken(Counting):
        name = "broken"

        def frames(self, *args, **kwargs):
            raise RuntimeError("no")

    told = []
    windows = cut_clips("a", mp4(20), CONFIG, [Broken(), Counting()], on_decode=lambda name, info: told.append(name))
    assert told == ["broken", "counting"]
    assert windows[0].decoder == "counting"


def test_a_cut_depends_on_its_arguments_alone():
    data = encode(numbered_frames(40), codec="libx264", gop=12)
    config = CONFIG.model_copy(update={"windows": "random"})
    once, again = (cut_clips("a", data, config, DECODERS) for _ in range(2))
    assert [w.t_start for w in once] == [w.t_start for w in again]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(once, again, strict=True))


def square_video(num_frames, *, height=270, width=480, codec="libx264"):
    """A bright square, a tenth as wide as the picture is high, that stands still in its middle."""
    frames = np.full((num_frames, height, width, 3), 16, np.uint8)
    half = height // 20
    middle = (slice(height // 2 - half, height // 2 + half), slice(width // 2 - half, width // 2 + half))
    frames[:, *middle] = 235
    return encode(frames, codec=codec, options={"crf": "10"} if codec == "libx264" else None)


def square_seen(frames):
    """(f,) x, y and area of the square, in pixels, at the precision of its grey edges."""
    light = (frames.astype(float).mean(axis=-1) - 16).clip(0) / 219
    area = light.sum(axis=(1, 2))
    y, x = np.mgrid[: light.shape[1], : light.shape[2]]
    return (light * x).sum(axis=(1, 2)) / area, (light * y).sum(axis=(1, 2)) / area, area


CAMERA = {"num_frames": 8, "stride": 2, "height": 128, "width": 128, "camera_travel": 0.25}
# How far a square that stands still moves, and by how much it grows.
SEEN = {
    "zoom_in": (0, 0, (1 / 0.75) ** 2),
    "zoom_out": (0, 0, 0.75**2),
    "pan_left": (32, 0, 1),
    "pan_right": (-32, 0, 1),
    "tilt_up": (0, 32, 1),
    "tilt_down": (0, -32, 1),
}


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])  # decord's and PyAV's
@pytest.mark.parametrize("move", get_args(CameraMove))
def test_a_camera_moves_what_stands_still_the_documented_way_and_evenly(move, codec):
    (window,) = cut_clips("a", square_video(15, codec=codec), ClipConfig(camera=move, **CAMERA), DECODERS)
    assert window.frames.shape == (8, 128, 128, 3)
    x, y, area = square_seen(window.frames)
    right, down, growth = SEEN[move]
    assert (x[-1] - x[0], y[-1] - y[0]) == (pytest.approx(right, abs=0.3), pytest.approx(down, abs=0.3))
    assert area[-1] / area[0] == pytest.approx(growth, rel=0.05)
    # Rounding to whole pixels would be off by up to half a pixel from frame to frame.
    for steps, wanted in ((np.diff(x), right / 7), (np.diff(y), down / 7)):
        assert np.abs(steps - wanted).max() < 0.1
    assert (area[1:] / area[:-1]) == pytest.approx(growth ** (1 / 7), rel=0.03)


def test_scores_see_the_cameras_move():
    data, moving = square_video(15), ClipConfig(camera="pan_left", **CAMERA)
    (still,) = cut_clips("a", data, moving.model_copy(update={"camera": None}), DECODERS)
    (moved,) = cut_clips("a", data, moving, DECODERS)
    assert still.scores["motion"] < 1e-3 < 5e-3 < moved.scores["motion"]
    assert (still.scores["static"], moved.scores["static"]) == (True, False)


def test_each_window_has_the_whole_move_though_windows_share_frames():
    counting = Counting()
    config = ClipConfig(camera="pan_right", windows_per_video=3, **{**CAMERA, "stride": 1})
    windows = cut_clips("a", square_video(12), config, [counting])
    assert counting.asked == [list(range(12))]
    assert len(windows) == 3
    for window in windows:
        assert np.abs(window.frames.astype(int) - windows[0].frames).mean() < 0.5


def test_frames_that_a_slow_source_holds_are_cropped_on_and_on():
    config = ClipConfig(camera="pan_right", num_frames=8, fps=50, height=128, width=128)
    (window,) = cut_clips("a", square_video(5), config, DECODERS)
    assert np.diff(square_seen(window.frames)[0]) == pytest.approx(-32 / 7, abs=0.1)


def test_a_mirrored_zoom_is_a_zoom():
    plain, mirrored = cut_clips("a", mp4(15), ClipConfig(camera="zoom_in", flip=True, **CAMERA), DECODERS)
    assert np.array_equal(plain.frames[:, :, ::-1], mirrored.frames)


def test_a_cameras_clip_has_the_size_closest_to_its_video():
    config = ClipConfig(camera="tilt_up", sizes=((96, 160), (160, 96)), **CAMERA)
    wide, tall = square_video(15), square_video(15, height=480, width=270)
    assert cut_clips("a", wide, config, DECODERS)[0].bucket == "8x96x160"
    assert cut_clips("a", tall, config, DECODERS)[0].bucket == "8x160x96"
