"""Clocks gone wrong: what no camera films is quarantined by name, and what one does is a clip as ever."""

import struct
from fractions import Fraction

import numpy as np
import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.timeline import Packet, read_timeline
from animatediff.data.decoding.videos import _time_base
from animatediff.data.quarantine import Reason, VideoError
from tests.support import encode, numbered_frames, read_number
from tests.support_videos import remux

BOTH = load_decoders(["decord", "pyav"])
CLIPS = ClipConfig(num_frames=4, stride=2, height=64, width=96)
_TICKS = 12_800
_STEP = 512


def mp4(*, timescale=_TICKS, step=_STEP):
    """25 frames a second, of which the header is made to say another clock or another distance."""
    data = bytearray(encode(numbered_frames(30), codec="libx264", fps=25, b_frames=0))
    at = data.index(b"mdhd") + 16
    assert struct.unpack_from(">I", data, at) == (_TICKS,)
    struct.pack_into(">I", data, at, timescale)
    at = data.index(b"stts") + 16
    assert struct.unpack_from(">I", data, at) == (_STEP,)
    struct.pack_into(">I", data, at, step)
    return bytes(data)


def matroska(change):
    return remux([encode(numbered_frames(30), codec="libx264", fps=25, b_frames=0)], "matroska", change=change)


def shift(at, ticks, times=1):
    """The timestamps from a packet on, later by so many ticks, and multiplied."""

    def change(number, packet):
        moved = packet.pts * times + (ticks if number >= at else 0)
        packet.pts = packet.dts = moved

    return change


@pytest.mark.parametrize(
    "data",
    [
        mp4(timescale=2**31 - 1),
        mp4(timescale=2**31 - 1, step=1),
        mp4(step=1),
        mp4(step=12),
        matroska(shift(0, 0, times=275)),
        matroska(shift(0, 0, times=25 * 512)),
        matroska(shift(0, 0, times=10**6)),
        matroska(shift(20, 31 * 86_400 * _TICKS)),
    ],
    ids=["4M fps", "2G fps", "12800 fps", "1067 fps", "11 s", "1/512 fps", "days", "a pause of a month"],
)
@pytest.mark.parametrize(
    "clips", [CLIPS, ClipConfig(num_frames=4, fps=8.0, height=64, width=96)], ids=["stride", "fps"]
)
def test_what_no_camera_films_is_quarantined(data, clips):
    with pytest.raises(VideoError) as error:
        cut_clips("v", data, clips, BOTH)
    assert (error.value.stage, error.value.reason) == ("probe", Reason.BAD_TIMESTAMPS)
    assert "frames a second" in error.value.detail
    assert "\n" not in error.value.detail


@pytest.mark.parametrize(
    ("data", "fps"),
    [
        (mp4(), 25),
        (mp4(step=13), _TICKS / 13),
        (matroska(shift(0, 0, times=225)), 1 / 9),
        (matroska(shift(20, 3600 * _TICKS)), 25),
        (matroska(shift(0, 10 * 365 * 86_400 * _TICKS)), 25),  # today's date as the start
    ],
    ids=["25 fps", "985 fps", "9 s", "a pause of an hour", "a date"],
)
def test_what_a_camera_may_film_is_a_clip(data, fps):
    (window,) = cut_clips("v", data, CLIPS, BOTH[1:])  # a date ends decord's process
    assert window.fps_src == pytest.approx(fps, rel=1e-3)
    assert set(np.diff([read_number(frame) for frame in window.frames])) == {2}


@pytest.mark.parametrize(
    ("pts", "dts"),
    [
        ([0, 512, 2**62], [0, 512, 1024]),
        ([-(2**62), 512, 1024], [0, 512, 1024]),
        ([0, 512, 1024], [-(2**63) + 1, 512, 1024]),
        ([2**61 + 1, 2**61 + 2, 2**61 + 3], None),
        ([0, 512, 1024] * 3, [2**60, -(2**60), 2**60] * 3),
    ],
)
def test_timestamps_that_cannot_be_reckoned_with_are_quarantined(pts, dts):
    packets = [Packet(p, d, 100, True, False) for p, d in zip(pts, dts or pts, strict=True)]
    with pytest.raises(VideoError) as error:
        read_timeline(packets, None)
    assert error.value.reason is Reason.BAD_TIMESTAMPS


@pytest.mark.parametrize("time_base", [None, Fraction(0), Fraction(-1, 25)])
def test_a_clock_without_ticks_is_quarantined(time_base):
    class Stream:
        pass

    Stream.time_base = time_base
    with pytest.raises(VideoError, match="is no duration"):
        _time_base(Stream)
