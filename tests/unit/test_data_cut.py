import numpy as np
import pytest

from animatediff.data.clips import ClipConfig
from animatediff.data.decoding.cut import cut
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
    windows = cut("a", data, CONFIG, DECODERS)
    shown = [[read_number(frame) for frame in window.frames] for window in windows]
    assert shown == [[0, 2, 4, 6], [12, 14, 16, 18], [24, 26, 28, 30]]
    first, _, last = windows
    assert [window.window for window in windows] == [0, 1, 2]
    assert (first.t_start, first.t_end) == (0.0, pytest.approx(6 / 25))
    assert (last.t_start, last.fps_src) == (pytest.approx(24 / 25), pytest.approx(25))
    assert (first.bucket, first.decoder, first.flip) == ("4x64x96", "decord", False)
    assert first.scores["motion"] > 0


def test_a_frame_that_windows_share_is_decoded_once():
    counting = Counting()
    assert len(cut("a", mp4(9), CONFIG, [counting])) == 3
    assert counting.asked == [list(range(9))]


def test_mirrored_copies():
    plain, mirrored = cut("a", mp4(8), CONFIG.model_copy(update={"flip": True, "windows_per_video": 1}), DECODERS)
    assert (plain.flip, mirrored.flip, mirrored.window) == (False, True, 1)
    assert np.array_equal(plain.frames[:, :, ::-1], mirrored.frames)
    assert bar_position(plain.frames[0]) < 0.5 < bar_position(mirrored.frames[0])


def test_the_size_follows_the_aspect_ratio_as_displayed():
    config = CONFIG.model_copy(update={"sizes": ((96, 64),)})
    wide, tall = mp4(8), mp4(8, height=96, width=64)
    assert cut("a", wide, config, DECODERS)[0].frames.shape == (4, 64, 96, 3)
    assert cut("a", tall, config, DECODERS)[0].frames.shape == (4, 96, 64, 3)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (CONFIG, "1 frames in 0.00 s, one clip takes 7 frames"),
        (ClipConfig(num_frames=4, fps=8.0), "one clip takes 0.38 s"),
    ],
)
def test_too_short(config, says):
    with pytest.raises(VideoError) as caught:
        cut("a", encode(gradient_frames(1), codec="libx264"), config, DECODERS)
    assert (caught.value.stage, caught.value.reason) == ("probe", Reason.TOO_SHORT)
    assert says in caught.value.detail


def test_decoders_are_tried_in_order_and_announced():
    class Broken(Counting):
        name = "broken"

        def frames(self, *args, **kwargs):
            raise RuntimeError("no")

    told = []
    windows = cut("a", mp4(20), CONFIG, [Broken(), Counting()], on_decode=lambda name, info: told.append(name))
    assert told == ["broken", "counting"]
    assert windows[0].decoder == "counting"


def test_a_cut_depends_on_its_arguments_alone():
    data = encode(numbered_frames(40), codec="libx264", gop=12)
    config = CONFIG.model_copy(update={"windows": "random"})
    once, again = (cut("a", data, config, DECODERS) for _ in range(2))
    assert [w.t_start for w in once] == [w.t_start for w in again]
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(once, again, strict=True))
