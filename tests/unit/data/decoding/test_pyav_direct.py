import itertools

import numpy as np
import pytest
from PIL import Image

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.clips.resize import crop_and_resize
from animatediff.data.decoding import videos
from animatediff.data.decoding.decoders.pyav import PyAV, decoded
from animatediff.data.decoding.decoders.pyav_direct import PyAVDirect
from animatediff.data.decoding.frames import FrameSelection, read_frames
from animatediff.data.decoding.open_file import VideoFile
from tests.support import encode, numbered_frames, read_number
from tests.support_videos import encode_frames, in_floats
from tests.unit.data.decoding.test_decoders import QUICK, natural_frames, psnr, rotated

SHARP = {"crf": "6", "preset": "ultrafast"}


def colourful(height=360, width=480):
    """One smooth picture of many colours: what the chroma planes' size takes from it is little."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def direct(data, indices, height, width, **more):
    info = videos.probe(data)
    frames, name = read_frames(data, info, FrameSelection(np.array(indices), height, width, **more), [PyAVDirect()])
    assert name == "pyav_direct"
    return frames


def exact(data, indices, height, width, **more):
    info = videos.probe(data)
    return np.stack(
        [in_floats(f, height=height, width=width, **more) for f in decoded(VideoFile(data, info), np.array(indices))]
    )


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (128, 256), (400, 400)], ids=str)
def test_frames_are_the_files_to_the_rounding(size):
    data = encode(natural_frames(3, 540, 960), codec="libx264", options=SHARP)
    want, info = exact(data, [0, 2], *size), videos.probe(data)
    at_twice, _ = read_frames(data, info, FrameSelection(np.array([0, 2]), *size), [PyAV()])
    assert psnr(direct(data, [0, 2], *size), want) > max(50, psnr(at_twice, want) + 2)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tags", [(), (1, 1, 1), (5, 5, 6), (6, 6, 6), (7, 7, 7), (9, 1, 1)], ids=str)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_colours_are_those_that_the_file_means(pixels, tags, full):
    data = encode_frames(colourful()[None], codec="libx264", pix_fmt=pixels, tags=tags, full=full, options=SHARP)
    want, found = exact(data, [0], 128, 160), direct(data, [0], 128, 160)
    assert psnr(found, want) > 46
    assert np.abs((found.astype(float) - want).mean((0, 1, 2))).max() < 0.2


@pytest.mark.parametrize("codec", ["png", "rawvideo", "ffv1"])
def test_pixels_that_are_no_planes_of_three_become_rgb_first(codec):
    kinds = {"png": "rgb24", "rawvideo": "gray", "ffv1": "bgr0"}
    picture = colourful() if codec != "rawvideo" else colourful()[..., :1].repeat(3, axis=2)
    data = encode_frames(
        picture[None], codec=codec, container="mov" if codec == "png" else "matroska", pix_fmt=kinds[codec], full=True
    )
    (found,) = direct(data, [0], 128, 160)
    assert psnr(found, crop_and_resize(picture, height=128, width=160)) > 45


@pytest.mark.parametrize(("x", "y"), itertools.product((14, 15), (6, 7)))
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv420p10le"])
def test_a_box_may_begin_in_odd_rows_and_columns(pixels, x, y):
    """Where chroma planes are half as large: their samples keep their places."""
    picture = colourful()
    data = encode_frames(picture[None], codec="libx264", pix_fmt=pixels, options=SHARP)
    region = CropBox(x, y, 320, 240)
    want = exact(data, [0], 120, 160, box=tuple(region))
    assert psnr(direct(data, [0], 120, 160, region=region), want) > 46


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_rotated_pictures_are_cut_as_they_are_shown(quarter):
    picture = colourful()
    data = rotated(encode(picture[None].repeat(2, axis=0), codec="libx264", options=SHARP), quarter)
    upright = np.rot90(picture, k=-quarter)
    region = CropBox(40, 16, 200, 160)
    for found, part in (
        (direct(data, [1], 80, 100, region=region), upright[16:176, 40:240]),
        (direct(data, [1], 96, 96), upright),
    ):
        height, width = found.shape[1:3]
        assert psnr(found[0], crop_and_resize(part, height=height, width=width)) > 38


def test_wide_pixels_become_square():
    picture = colourful(360, 480)
    data = encode(picture[None].repeat(2, axis=0), codec="libx264", options=SHARP | {"x264-params": "sar=2/1"})
    want = crop_and_resize(np.asarray(Image.fromarray(picture).resize((480, 180))), height=90, width=90)
    assert psnr(direct(data, [0], 90, 90)[0], want) > 38


@pytest.mark.parametrize(("source", "size"), [((360, 719), (64, 64)), ((360, 720), (8, 8))], ids=str)
def test_what_the_scaler_cannot_cut_exactly_goes_by_whole_frames(source, size, monkeypatch):
    """A middle that begins at half a pixel, and a picture 45 times as large."""
    data = encode_frames(natural_frames(1, *source), codec="libx264", pix_fmt="yuv444p", options=SHARP)
    monkeypatch.setattr(PyAVDirect, "cropped_frames", None)
    assert psnr(direct(data, [0], *size), exact(data, [0], *size)) > 35


@pytest.mark.parametrize(
    ("codec", "container", "more"),
    [
        ("libx264", "mp4", {"b_frames": 3}),
        ("libx264", "mp4", {"options": {"x264-params": "open-gop=1:bframes=3:scenecut=0"}}),
        ("libx264", "mp4", {"options": {"x264-params": "bframes=8:b-pyramid=strict:b-adapt=0"}}),
        ("libx264", "mpegts", {"b_frames": 3}),
        ("libx264", "avi", {"b_frames": 2}),
        ("mpeg4", "avi", {"b_frames": 2}),
        ("mpeg4", "mp4", {"b_frames": 2}),
        ("mpeg2video", "mpegts", {"b_frames": 2}),
        ("libx265", "mp4", {}),
        ("libvpx", "webm", {}),
        ("libvpx-vp9", "webm", {}),
        ("libsvtav1", "mp4", {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("picks", [[0, 1, 4, 5, 8, 12, 16, 20, 40, 44, 60, 64, 79], [3], [46, 47, 48]], ids=len)
def test_the_wanted_frames_are_the_very_ones(codec, container, more, picks):
    options = QUICK.get(codec, {}) | more.get("options", {})
    data = encode(numbered_frames(80), codec=codec, container=container, gop=12, **more | {"options": options})
    frames = direct(data, picks, 64, 96)
    assert [read_number(frame) for frame in frames] == picks
    assert psnr(frames, exact(data, picks, 64, 96)) > 40
