import struct

import numpy as np
import pytest

from animatediff.data import videos
from animatediff.data.quarantine import Reason
from tests.support import audio_only, bar_position, encode, gradient_frames, mp4, numbered_frames, read_number

# What each codec needs to be quick and to use B-frames where it has them.
CODECS = {
    "h264": ("libx264", "mp4", {"bf": "3", "crf": "12"}),
    "hevc": ("libx265", "mp4", {"crf": "12", "preset": "ultrafast", "x265-params": "log-level=none"}),
    "vp9": ("libvpx-vp9", "webm", {"crf": "12", "b": "0", "cpu-used": "8"}),
    "av1": ("libsvtav1", "mp4", {"crf": "20", "preset": "12", "svtav1-params": "progress=0"}),
}


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-6, np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.mark.parametrize("name", CODECS)
def test_frames_are_the_ones_asked_for(name):
    codec, container, options = CODECS[name]
    frames = gradient_frames(24)
    data = encode(frames, codec=codec, container=container, options=options)
    info = videos.probe(data)
    assert info.fps == pytest.approx(25, rel=0.01)
    assert len(info.timestamps) == 24
    picks = np.array([0, 5, 11, 23])
    decoded, decoder = videos.read_frames(data, info, picks, height=64, width=96)
    # decord's FFmpeg 4.1 has no AV1 decoder: the fallback must have served it.
    assert decoder == ("pyav" if name == "av1" else decoder)
    for got, want in zip(decoded, frames[picks], strict=True):
        assert bar_position(got) == pytest.approx(bar_position(want), abs=0.01)
        assert psnr(got, want) > 25


HEVC = {"x265-params": "log-level=none:pools=1:frame-threads=1", "preset": "ultrafast"}


@pytest.mark.parametrize(
    ("codec", "container", "more"),
    [
        ("libx264", "mp4", {}),
        ("libx264", "mp4", {"b_frames": 0}),
        ("libx264", "matroska", {}),
        ("libx264", "mpegts", {}),
        ("libx264", "avi", {"b_frames": 0}),
        ("libx264", "avi", {"b_frames": 2}),
        ("mpeg4", "avi", {"b_frames": 2}),
        ("mpeg4", "mp4", {"b_frames": 2}),
        ("libx265", "mp4", {"options": HEVC}),
        ("libvpx-vp9", "webm", {"options": {"cpu-used": "8", "deadline": "realtime"}}),
        ("libx264", "mp4", {"options": {"x264-params": "open-gop=1:bframes=3:scenecut=0"}}),
    ],
    ids=str,
)
def test_frames_carry_the_numbers_asked_for(codec, container, more):
    """Several groups of pictures, so that decoders seek: decord returns neighbouring frames for some of these."""
    data = encode(numbered_frames(80), codec=codec, container=container, gop=12, **more)
    info = videos.probe(data)
    picks = np.array([0, 1, 4, 5, 8, 12, 16, 20, 40, 44, 60, 64, 79])
    decoded, _ = videos.read_frames(data, info, picks, height=64, width=96)
    assert [read_number(frame) for frame in decoded] == picks.tolist()


def rotated(data):
    """The same MP4 with a display matrix of a quarter turn in its track header."""
    data = bytearray(data)
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    return bytes(data)


def test_rotated_clips_are_upright_in_both_decoders():
    data = rotated(mp4(8))
    info = videos.probe(data)
    picks = np.array([0, 5])
    by_decord = videos._decode_decord(data, info, picks)
    by_pyav = np.stack(videos._decode_pyav(data, info, picks, ""))
    assert by_decord.shape == by_pyav.shape == (2, 96, 64, 3)
    assert psnr(by_decord, by_pyav) > 35


def test_a_tag_in_another_character_set_does_no_harm():
    data = encode(gradient_frames(4), codec="libx264", title="caf\xe9")
    assert b"caf\xe9" in data
    info = videos.probe(data)
    assert len(videos._decode_pyav(data, info, np.array([0]), "")) == 1


def test_decord_and_pyav_agree():
    data = mp4(48)
    info = videos.probe(data)
    picks = np.array([0, 7, 20, 21, 47])
    by_decord = videos._decode_decord(data, info, picks)
    by_pyav = np.stack(videos._decode_pyav(data, info, picks, ""))
    assert psnr(by_decord, by_pyav) > 35


def test_decord_serves_plain_h264():
    data = mp4(8)
    assert videos.read_frames(data, videos.probe(data), np.array([0]), height=8, width=8)[1] == "decord"


def test_variable_frame_rate_keeps_its_timestamps():
    pts = [0, 33, 67, 100, 300, 500, 700]
    info = videos.probe(encode(gradient_frames(7), codec="libx264", pts=pts))
    assert np.allclose(info.timestamps, np.array(pts) / 1000, atol=0.002)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"<html>404</html>" * 20, Reason.NOT_VIDEO),
        (audio_only(), Reason.NO_STREAM),
        (mp4()[: len(mp4()) // 2], Reason.TRUNCATED),  # the index at the front, frames missing
        (encode(gradient_frames(24), codec="libx264")[:-200], Reason.TRUNCATED),  # the index at the end, missing
        (mp4()[:-1], Reason.TRUNCATED),
    ],
    ids=["empty", "html", "audio", "half", "no index", "one byte"],
)
def test_unusable_files_have_a_reason(data, reason):
    with pytest.raises(videos.VideoError) as caught:
        videos.probe(data)
    assert caught.value.reason is reason
    assert caught.value.stage == "probe"
    assert "\n" not in caught.value.detail


def test_damaged_frames_are_a_decode_error():
    data = bytearray(mp4(64))
    start = data.index(b"mdat") + 100
    data[start : len(data)] = bytes(len(data) - start)
    info = videos.probe(bytes(data))
    with pytest.raises(videos.VideoError) as caught:
        videos.read_frames(bytes(data), info, np.array([0, 30, 63]), height=8, width=8)
    assert caught.value.reason is Reason.DECODE_ERROR
