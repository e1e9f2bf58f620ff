import struct

import numpy as np
import pytest

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.clips.resize import crop_and_resize
from animatediff.data.decoding import decoders, videos
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.decoders.decord import _distrust_repeats
from animatediff.data.decoding.decoders.pyav import PyAV
from animatediff.data.decoding.frames import FrameSelection, decode_size, read_frames
from animatediff.data.quarantine import Reason, VideoError
from animatediff.errors import UserError
from tests.support import encode, gradient_frames, mp4, numbered_frames, read_number

BOTH = load_decoders(["decord", "pyav"])
# a, b, c and d of the display matrix.
MATRICES = {
    "as stored": (1, 0, 0, 1),
    "90": (0, 1, -1, 0),
    "180": (-1, 0, 0, -1),
    "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}
QUICK = {
    "libx264": {},
    "libx265": {"x265-params": "log-level=none:pools=1:frame-threads=1", "preset": "ultrafast"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
    "libvpx": {"cpu-used": "8", "deadline": "realtime"},
    "libsvtav1": {"svtav1-params": "progress=0:lp=1", "preset": "12"},
    "mpeg4": {},
}


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-6, np.mean((a.astype(float) - b.astype(float)) ** 2)))


def frames_of(decoder, data, picks, height=None, width=None):
    info = videos.probe(data)
    size = {"height": height or info.height, "width": width or info.width}
    return np.stack(list(decoder.frames(data, info, np.array(picks), **size)))


@pytest.mark.parametrize(
    ("codec", "container", "more"),
    [
        ("libx264", "mp4", {"b_frames": 3}),
        ("libx264", "mp4", {"b_frames": 0}),
        ("libx264", "mp4", {"pts": np.cumsum([0] + [33, 33, 133] * 26 + [33]).tolist()}),
        ("libx264", "mp4", {"options": {"x264-params": "open-gop=1:bframes=3:scenecut=0"}}),
        ("libx264", "mp4", {"options": {"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"}}),
        ("libx264", "matroska", {}),
        ("libx264", "mpegts", {}),
        ("libx264", "avi", {"b_frames": 2}),
        ("mpeg4", "avi", {"b_frames": 2}),
        ("mpeg4", "mp4", {"b_frames": 2}),
        ("libx265", "mp4", {}),
        ("libvpx", "webm", {}),
        ("libvpx-vp9", "webm", {}),
        ("libsvtav1", "mp4", {}),
        ("libsvtav1", "webm", {}),
    ],
    ids=str,
)
def test_each_decoder_is_right_or_not_used_and_they_agree(codec, container, more):
    """Several groups of pictures, so that decoders seek: decord returns neighbouring frames for some of these."""
    options = QUICK[codec] | more.get("options", {})
    data = encode(numbered_frames(80), codec=codec, container=container, gop=12, **more | {"options": options})
    info = videos.probe(data)
    picks = [0, 1, 4, 5, 8, 12, 16, 20, 40, 44, 60, 64, 79]
    given = [frames_of(decoder, data, picks) for decoder in BOTH if decoder.supports(info)]
    assert given
    for frames in given:
        assert [read_number(frame) for frame in frames] == picks
        assert psnr(frames, given[0]) > 35


def rotated(data, quarter):
    """The same MP4 with a display matrix of `quarter` quarter turns in its track header."""
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter]
    data = bytearray(data)
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    return bytes(data)


@pytest.mark.parametrize("matrix", list(MATRICES))
def test_all_eight_ways_to_show_a_picture_are_what_their_matrix_says(matrix):
    a, b, c, d = MATRICES[matrix]
    frames = gradient_frames(2, 128, 192)
    frames[:, :64] //= 2  # no symmetry
    data = bytearray(encode(frames, codec="libx264"))
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data = bytes(data)
    # QuickTime's matrix sends the pixel (x, y) to (a x + c y, b x + d y), and the picture is moved to where it begins.
    y, x = np.mgrid[:128, :192]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.zeros((2, to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    shown[:, to_y, to_x] = frames
    info = videos.probe(data)
    assert (info.height, info.width) == shown.shape[1:3]
    assert info.is_mirrored == (a * d < b * c)
    region, inner = CropBox(16, 32, 64, 80), (slice(None), slice(32, 112), slice(16, 80))
    for decoder in ("decord", "pyav", "pyav_direct"):
        each = load_decoders([decoder, "pyav"])
        whole, _ = read_frames(data, info, FrameSelection(np.arange(2), *shown.shape[1:3]), each)
        assert psnr(whole, shown) > 25, decoder
        part, _ = read_frames(data, info, FrameSelection(np.arange(2), 80, 64, region=region), each)
        assert psnr(part, shown[inner]) > 25, decoder


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_rotated_clips_are_upright_in_both_decoders_at_any_size(quarter):
    frames = gradient_frames(4, 320, 480)
    frames[:, :160] //= 2  # no symmetry
    data = rotated(encode(frames, codec="libx264"), quarter)
    info = videos.probe(data)
    upright = np.rot90(frames, k=-quarter, axes=(1, 2))
    assert (info.height, info.width) == upright.shape[1:3]
    for decoder in BOTH:
        full = frames_of(decoder, data, [0, 3])
        assert psnr(full, upright[[0, 3]]) > 25
        height, width = info.height // 2, info.width // 2
        small = frames_of(decoder, data, [0, 3], height, width)
        assert small.shape == (2, height, width, 3)
        assert psnr(small, np.stack([crop_and_resize(f, height=height, width=width) for f in full])) > 35


def test_frames_that_an_edit_list_hides_are_not_counted():
    data = bytearray(encode(numbered_frames(40), codec="libx264", gop=12, b_frames=0))
    ticks = int(videos.probe(bytes(data)).pts[7])
    entry = data.index(b"elst") + 4 + 8 + 4
    data[entry : entry + 4] = struct.pack(">I", struct.unpack(">I", data[entry : entry + 4])[0] + ticks)
    data = bytes(data)
    info = videos.probe(data)
    assert len(info.pts) == 33
    frames, _ = read_frames(data, info, FrameSelection(np.array([0, 5, 32]), 64, 96), BOTH)
    assert [read_number(frame) for frame in frames] == [7, 12, 39]


def test_pyav_passes_over_what_is_not_wanted(monkeypatch):
    data = encode(numbered_frames(120), codec="libx264", gop=10, b_frames=3)
    packets = []
    from animatediff.data.decoding.decoders import pyav as decoders_pyav

    def spy(*args):
        for frame in real(*args):
            packets.append(frame)
            yield frame

    real = decoders_pyav._decode
    monkeypatch.setattr(decoders_pyav, "_decode", spy)
    assert [read_number(f) for f in frames_of(PyAV(), data, [3, 4, 55, 119])] == [3, 4, 55, 119]
    assert len(packets) < 45


def test_pyav_starts_over_where_key_frames_are_none(monkeypatch):
    data = encode(numbered_frames(60), codec="libx264", gop=60)
    info = videos.probe(data)
    lying = videos.VideoInfo(**{**info.__dict__, "keyframe_pts": info.pts[[0, 20]]})
    frames = list(PyAV().frames(data, lying, np.array([5, 40]), height=64, width=96))
    assert [read_number(frame) for frame in frames] == [5, 40]


def natural_frames(num_frames, height, width):
    """Gradients under textures of several scales."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    picture = np.stack([30 + x / width * 120 + y / height * 60] * 3, axis=-1)
    for scale in (4, 8, 16, 32, 64):
        noise = rng.integers(0, 255, (height // scale + 1, width // scale + 1, 3), dtype=np.uint8)
        picture += (crop_and_resize(noise, height=height, width=width).astype(float) - 128) * scale**0.5 / 20
    return np.stack([np.roll(picture.clip(0, 255).astype(np.uint8), 3 * i, axis=1) for i in range(num_frames)])


@pytest.mark.parametrize("decoder", BOTH, ids=lambda decoder: decoder.name)
def test_decoding_at_a_smaller_size_keeps_the_quality(decoder):
    data = encode(natural_frames(3, 540, 960), codec="libx264", options={"crf": "14", "preset": "ultrafast"})
    info = videos.probe(data)
    want = np.stack([crop_and_resize(f, height=128, width=128) for f in frames_of(decoder, data, [0, 2])])
    got, name = read_frames(data, info, FrameSelection(np.array([0, 2]), 128, 128), [decoder])
    assert name == decoder.name
    assert psnr(got, want) > 40


@pytest.mark.parametrize("decoder", BOTH, ids=lambda decoder: decoder.name)
def test_each_box_is_cut_from_its_frame_at_full_quality(decoder):
    data = encode(natural_frames(3, 540, 960), codec="libx264", options={"crf": "14", "preset": "ultrafast"})
    indices = np.array([0, 0, 2])
    boxes = np.array([[210.5, 0, 540, 540], [300.25, 99.5, 270, 270], [690, 270, 270, 270]])
    full = frames_of(decoder, data, indices[[0, 2]])[[0, 0, 1]]
    crops = boxes / (960, 540, 960, 540)
    want = [crop_and_resize(frame, height=64, width=64, crop=crop) for frame, crop in zip(full, crops, strict=True)]
    got, _ = read_frames(data, videos.probe(data), FrameSelection(indices, 64, 64, boxes), [decoder])
    assert min(psnr(a, b) for a, b in zip(got, want, strict=True)) > 40


@pytest.mark.parametrize(
    ("source", "clip", "cover"),
    [
        ((1080, 1920), (256, 256), (512, 910)),
        ((1920, 1080), (256, 384), (1365, 768)),
        ((336, 596), (256, 256), (336, 596)),  # less than twice as large: as it is
        ((64, 96), (256, 256), (64, 96)),  # never larger
        ((1080, 1920), (32, 32), (128, 228)),
    ],
)
def test_sources_are_decoded_at_about_twice_the_clips_size(source, clip, cover):
    info = videos.VideoInfo(**{**videos.probe(mp4(2)).__dict__, "height": source[0], "width": source[1]})
    assert decode_size(info, height=clip[0], width=clip[1]) == cover


def test_sources_are_decoded_at_twice_the_size_that_their_smallest_crop_needs():
    info = videos.VideoInfo(**{**videos.probe(mp4(2)).__dict__, "height": 1080, "width": 1920})
    assert decode_size(info, height=256, width=256, crop=(1080, 1080)) == (512, 910)
    assert decode_size(info, height=256, width=256, crop=(810, 810)) == (683, 1214)
    assert decode_size(info, height=256, width=256, crop=(400, 400)) == (1080, 1920)


def test_wide_pixels_become_square():
    data = encode(numbered_frames(3), codec="libx264", options={"x264-params": "sar=2/1"})
    info = videos.probe(data)
    for decoder in BOTH:
        assert frames_of(decoder, data, [0, 2]).shape == (2, info.height, info.width, 3) == (2, 32, 96, 3)


def test_decord_is_not_trusted_when_it_repeats_frames():
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    assert len(list(_distrust_repeats(frames, np.array([9, 9, 9, 9, 9])))) == 5  # a still picture
    assert len(list(_distrust_repeats(frames[:2], np.array([9, 8])))) == 2
    with pytest.raises(ValueError, match="same picture"):
        list(_distrust_repeats(frames, np.array([9, 9, 9, 8, 9])))


def test_decord_serves_h264_and_leaves_other_codecs_to_pyav():
    plain = mp4(8)
    assert read_frames(plain, videos.probe(plain), FrameSelection(np.array([0]), 8, 8), BOTH)[1] == "decord"
    mpeg = encode(gradient_frames(8), codec="mpeg4")
    assert read_frames(mpeg, videos.probe(mpeg), FrameSelection(np.array([0]), 8, 8), BOTH)[1] == "pyav"


def test_rows_that_decord_pads_do_no_harm():
    """Its frames of this width cannot be read, depending on the processor."""
    data = encode(gradient_frames(4, 64, 48), codec="libx264")
    frames, _ = read_frames(data, videos.probe(data), FrameSelection(np.array([0, 3]), 64, 48), BOTH)
    assert psnr(frames, gradient_frames(4, 64, 48)[[0, 3]]) > 25


def test_damaged_frames_are_a_decode_error():
    data = bytearray(mp4(64))
    start = data.index(b"mdat") + 100
    data[start : len(data)] = bytes(len(data) - start)
    info = videos.probe(bytes(data))
    with pytest.raises(VideoError) as caught:
        read_frames(bytes(data), info, FrameSelection(np.array([0, 30, 63]), 8, 8), BOTH)
    assert (caught.value.stage, caught.value.reason) == ("decode", Reason.DECODE_ERROR)
    assert "decord: " in caught.value.detail
    assert "pyav: " in caught.value.detail


class Failing:
    name = "failing"

    def __init__(self, error=None, supports=True, gives=0):
        self._error, self._supports, self._gives = error, supports, gives

    def supports(self, info):
        return self._supports

    def frames(self, data, info, indices, *, height, width):
        if self._error:
            raise self._error
        return [np.zeros((height, width, 3), np.uint8)] * self._gives


@pytest.mark.parametrize(
    ("decoder", "reason"),
    [
        (Failing(KeyError("box")), Reason.DECODE_ERROR),
        (Failing(), Reason.DECODE_ERROR),  # too few frames
        (Failing(gives=2), Reason.DECODE_ERROR),  # too many
        (Failing(MemoryError()), Reason.OUT_OF_MEMORY),
        (Failing(RuntimeError("avcodec: Cannot allocate memory")), Reason.OUT_OF_MEMORY),
        (Failing(supports=False), Reason.CODEC_UNSUPPORTED),
    ],
)
def test_what_a_decoders_failure_means(decoder, reason):
    data = mp4(4)
    with pytest.raises(VideoError) as caught:
        read_frames(data, videos.probe(data), FrameSelection(np.array([0]), 8, 8), [decoder])
    assert caught.value.reason is reason


def test_decoders_that_cannot_be_loaded_are_named():
    with pytest.raises(UserError, match="torchcodec, which is not installed: pip install torchcodec$"):
        load_decoders(["torchcodec"])
    with pytest.raises(UserError, match="names tests.nowhere:X, which cannot be imported: No module named"):
        load_decoders(["tests.nowhere:X"])
    with pytest.raises(UserError, match="names tests.support:X, which cannot be used: .*no attribute 'X'"):
        load_decoders(["tests.support:X"])
    assert load_decoders(["tests.fake_decoders:Slow"])[0].name == "slow"


def test_a_decoder_is_known_by_its_file(tmp_path, monkeypatch):
    shipped = decoders.names()
    assert {"decord", "pyav", "torchcodec"} <= set(shipped)
    code = "class Grey:\n    name = 'grey'\n\nDECODER = Grey\n"
    (tmp_path / "grey.py").write_text(code)
    monkeypatch.setattr(decoders, "__path__", [*decoders.__path__, str(tmp_path)])
    assert decoders.names() == tuple(sorted([*shipped, "grey"]))
    assert load_decoders(["grey"])[0].name == "grey"
