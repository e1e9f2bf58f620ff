import numpy as np
import pytest

from animatediff.data import videos
from animatediff.data.quarantine import Reason
from tests.support import audio_only, bar_position, encode, gradient_frames, mp4

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
