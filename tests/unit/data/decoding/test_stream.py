"""All frames at once are the same frames, under the same numbers, as those that decoders find one by one."""

import io

import numpy as np
import pytest

from animatediff.data.decoding import videos
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.stream import stream_frames
from tests.support import encode, numbered_frames, read_number
from tests.support_videos import QUIET, encode_frames, remux

SIDE = {"height": 128, "width": 192}
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:scenecut=0"}
OPEN_HEVC = {"x265-params": QUIET["libx265"]["x265-params"] + ":open-gop=1:bframes=3:scenecut=0"}


def numbered(codec, container, num=60, **more):
    options = QUIET.get(codec, {}) | more.pop("options", {})
    return encode(numbered_frames(num, **SIDE), codec=codec, container=container, gop=12, options=options, **more)


def streamed(data, info):
    return [(n, read_number(frame.to_ndarray(format="rgb24"))) for n, frame in stream_frames(io.BytesIO(data), info)]


@pytest.mark.parametrize(
    ("codec", "source", "container", "skip", "more"),
    [
        ("libx264", "mp4", "mp4", 0, {"b_frames": 2}),
        ("libx264", "mp4", "mp4", 5, {"b_frames": 2}),
        ("libx264", "mp4", "mpegts", 17, {"b_frames": 0}),
        ("libx264", "mp4", "matroska", 5, {"options": OPEN_GOP}),
        ("libx265", "mp4", "mp4", 5, {"options": OPEN_HEVC}),
        ("libx265", "mp4", "mpegts", 9, {"options": OPEN_HEVC}),
        ("mpeg2video", "mpegts", "mpegts", 5, {"b_frames": 2}),
        ("mpeg4", "avi", "avi", 0, {"b_frames": 0}),
        ("libvpx-vp9", "webm", "webm", 5, {}),
    ],
    ids=str,
)
def test_frames_have_the_numbers_of_the_timeline(codec, source, container, skip, more):
    data = numbered(codec, source, **more)
    data = remux([data], container, skip=skip) if source != "avi" else data
    info = videos.probe(io.BytesIO(data))
    found = streamed(data, info)
    (decoder,) = load_decoders(["pyav"])
    want = decoder.frames(data, info, np.arange(len(info.pts)), **SIDE)
    assert found == list(enumerate(read_number(frame) for frame in want))
    assert len(found) > 24


def test_frames_that_no_timestamp_tells_apart_are_left_out_as_the_timeline_leaves_them_out():
    def pair_up(number, packet):
        packet.pts = packet.dts = 512 * (number // 2 * 2)

    data = remux([numbered("libx264", "mp4", b_frames=0)], "matroska", change=pair_up)
    info = videos.probe(data)
    assert info.replacement_pts is not None
    assert streamed(data, info) == [(number, 2 * number) for number in range(30)]


def test_interlaced_frames_keep_their_numbers():
    frames = np.stack([np.full((128, 192, 3), 20 + 4 * i, np.uint8) for i in range(12)])
    data = encode_frames(frames, codec="libx264", options={"x264-params": "tff=1"})
    info = videos.probe(data)
    assert info.is_interlaced
    assert [number for number, _ in stream_frames(data, info)] == list(range(12))


def test_frames_that_do_not_decode_leave_out_their_numbers():
    broken = []

    def damage(number, packet):
        if 30 <= number < 34:
            memoryview(packet)[4:] = bytes(packet.size - 4) if packet.size > 4 else b""
            broken.append(number)

    data = remux([numbered("mpeg4", "mp4", b_frames=0)], "matroska", change=damage)
    found = [number for number, _ in streamed(data, videos.probe(data))]
    assert broken
    assert len(found) < 60
    assert found[:30] == list(range(30))
    assert found[-1] == 59
