import numpy as np
import pytest
from PIL import Image

from animatediff.data.decoding.videos import probe
from animatediff.data.shots.bars import displayed_box, find_bars
from tests.support_episodes import build_episode
from tests.support_videos import encode_frames

HEIGHT, WIDTH = 144, 256
OPTIONS = {"g": "6", "crf": "23"}
"""A key frame each quarter of a second."""


@pytest.fixture(scope="module")
def pictures():
    """(n h w 3) of several shots, every fourth frame of an episode."""
    frames = build_episode(11, num_shots=9).frames[::4]
    return np.stack([np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT))) for frame in frames])


def boxed(pictures, left=0, top=0, right=0, bottom=0, level=0):
    """The pictures resized into a frame of their size with bars around."""
    size = WIDTH - left - right, HEIGHT - top - bottom
    frames = np.full_like(pictures, level)
    inner = np.stack([np.asarray(Image.fromarray(picture).resize(size)) for picture in pictures])
    frames[:, top : HEIGHT - bottom, left : WIDTH - right] = inner
    return frames


def bars_of(frames, **options):
    data = encode_frames(frames, codec="libx264", container="matroska", options=OPTIONS, **options)
    info = probe(data)
    box = find_bars(data, info)
    return displayed_box(box, info) if box else None


@pytest.mark.parametrize(
    "bars",
    [
        {"top": 18, "bottom": 18},
        {"top": 17, "bottom": 19},
        {"top": 1, "bottom": 2},
        {"left": 32, "right": 32},
        {"left": 33, "right": 31, "top": 13, "bottom": 14},
        {"left": 3},
        {"top": 20, "bottom": 20, "level": 255},
    ],
    ids=str,
)
def test_bars_are_found_to_the_pixel(pictures, bars):
    left, top, right, bottom = (bars.get(side, 0) for side in ("left", "top", "right", "bottom"))
    assert bars_of(boxed(pictures, **bars)) == (left, top, WIDTH - left - right, HEIGHT - top - bottom)


def test_a_subtitle_on_a_bar_is_no_picture(pictures):
    frames = boxed(pictures, top=20, bottom=20)
    frames[::2, 130:138, 80:176:3] = 255
    assert bars_of(frames) == (0, 20, WIDTH, HEIGHT - 40)


def test_dark_scenes_and_black_frames_hide_no_bars(pictures):
    frames = boxed(pictures, top=18, bottom=18)
    frames[1::5] = 0
    frames[2::5] = 0
    frames[3::5] //= 8
    assert bars_of(frames) == (0, 18, WIDTH, HEIGHT - 36)


def test_pictures_without_bars_have_none(pictures):
    assert bars_of(pictures) is None


def test_a_boxed_stretch_is_not_cropped(pictures):
    frames = pictures.copy()
    num = len(frames) * 3 // 5
    frames[:num] = boxed(pictures[:num], left=32, right=32)
    assert bars_of(frames) is None


def test_a_night_sky_is_no_bar(pictures):
    """Nor black ground on one side, nor a bright thing before black."""
    frames = pictures.copy()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames[:, y < 60 + 20 * np.sin(x / 40)] = 0
    assert bars_of(frames) is None
    frames = np.zeros_like(pictures)
    frames[:, (y - 72) ** 2 + (x - 128) ** 2 < 70**2] = 220
    assert bars_of(frames) is None


def test_black_throughout_has_no_bars(pictures):
    assert bars_of(np.zeros_like(pictures)) is None


def test_the_box_is_of_the_picture_as_displayed(pictures):
    data = encode_frames(boxed(pictures, left=30, right=34), codec="libx264", options=OPTIONS)
    info = probe(data)
    box = find_bars(data, info)
    assert box == (30, 0, 192, 144)
    as_shown = {
        (WIDTH, HEIGHT, 1): (0, 34, 144, 192),  # counterclockwise: the right side is up
        (WIDTH, HEIGHT, 2): (34, 0, 192, 144),
        (WIDTH, HEIGHT, 3): (0, 30, 144, 192),
        (192, HEIGHT, 0): (23, 0, 143, 144),  # 3/4 of the width; parts of pixels are left out
    }
    for (width, height, turns), crop in as_shown.items():
        size = (height, width) if turns % 2 else (width, height)
        turned = type(info)(**{**info.__dict__, "rotation": turns, "width": size[0], "height": size[1]})
        assert displayed_box(box, turned) == crop
