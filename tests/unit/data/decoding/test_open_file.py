import numpy as np
import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding import open_file as open_file_module
from animatediff.data.decoding import videos
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import load_decoders, pyav
from animatediff.data.decoding.open_file import VideoFile, open_file
from tests.support import encode, numbered_frames, read_number

DIRECT = load_decoders(["pyav_direct"])
CLIPS = ClipConfig(num_frames=8, stride=4, height=64, width=96, windows="random", windows_per_video=3)


@pytest.fixture
def opened(monkeypatch):
    """How often a file is opened to be decoded."""
    count = []
    real = open_file_module.open_video
    monkeypatch.setattr(open_file_module, "open_video", lambda data: count.append(1) or real(data))
    return count


@pytest.mark.parametrize(("codec", "container"), [("libx264", "mp4"), ("libx264", "matroska"), ("mpeg4", "mp4")])
def test_a_file_that_was_probed_is_decoded_without_being_opened_again(codec, container, opened):
    data = encode(numbered_frames(80), codec=codec, container=container, gop=12, b_frames=2)
    with open_file(data) as video:
        for picks in ([40, 41, 79], [0, 4, 8]):  # further on and back to the start
            frames = [f.to_ndarray(format="rgb24") for f in pyav.decoded(video, np.array(picks))]
            assert [read_number(frame) for frame in frames] == picks
            again = [f.to_ndarray(format="rgb24") for f in pyav.decoded(VideoFile(data, video.info), np.array(picks))]
            assert all(np.array_equal(a, b) for a, b in zip(frames, again, strict=True))
    assert len(opened) == 2  # the two `VideoFile`


def test_files_without_an_index_are_opened_again(opened):
    data = encode(numbered_frames(80), codec="libx264", container="mpegts", gop=12, b_frames=2)
    clips = cut_clips("v", data, CLIPS, DIRECT)
    assert len(opened) == 1
    for clip in clips:
        numbers = [read_number(frame) for frame in clip.frames]
        assert np.diff(numbers).tolist() == [4] * 7


def test_a_file_that_does_not_rewind_to_its_first_packet_is_opened_again(opened):
    data = encode(numbered_frames(40), codec="libx264", gop=12)
    with open_file(data) as video:
        other = video.first_packet._replace(size=1)
        moved = VideoFile(data, video.info, video.container, other)
        frames = [f.to_ndarray(format="rgb24") for f in pyav.decoded(moved, np.array([0, 30]))]
    assert [read_number(frame) for frame in frames] == [0, 30]
    assert len(opened) == 1


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mpeg2video"])
def test_pictures_that_no_other_refers_to_are_not_decoded_unless_wanted(codec, monkeypatch):
    data = encode(numbered_frames(60), codec=codec, container="mp4", gop=30, b_frames=3)
    info, given = videos.probe(data), []
    monkeypatch.setattr(pyav, "progressive", lambda frames: (given.append(frame) or frame for frame in frames))
    picks = np.arange(1, 58, 4)
    frames = [frame.to_ndarray(format="rgb24") for frame in pyav.decoded(VideoFile(data, info), picks)]
    skipping = len(given)
    monkeypatch.setattr(pyav, "_UNREFERENCED", ())
    given.clear()
    whole = [frame.to_ndarray(format="rgb24") for frame in pyav.decoded(VideoFile(data, info), picks)]
    assert skipping < 0.8 * len(given)
    assert all(np.array_equal(a, b) for a, b in zip(frames, whole, strict=True))
