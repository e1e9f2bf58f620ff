"""The files of rendered clips."""

import numpy as np
import pytest

from animatediff import storage
from animatediff.diffusion.passes.second_pass import SecondPass
from animatediff.errors import UserError
from animatediff.rendering.outputs import encode_mp4
from animatediff.rendering.results import clip_files
from animatediff.rendering.results.result import Result


def result(**files):
    return Result(digest="d", entry="e", model="m", prompt="p", seed=0, status="ok", files=files, width=32, height=48)


def test_the_frames_of_a_clip_are_read_again(tmp_path):
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [120, 120, 120]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (4, 48, 32, 3)).copy()
    storage.write_bytes(str(tmp_path / "clips/d.mp4"), encode_mp4(frames, fps=8, crf=0))
    found = clip_files.read_frames(str(tmp_path), result(mp4="clips/d.mp4"))
    assert (found.shape, found.dtype) == (frames.shape, np.uint8)
    assert np.abs(found.astype(int) - frames).max() <= 6  # what YUV rounds


def test_the_frames_of_a_second_pass_are_read_at_its_size(tmp_path):
    frames = np.full((2, 48, 32, 3), 90, np.uint8)
    storage.write_bytes(str(tmp_path / "clips/d.mp4"), encode_mp4(frames, fps=8, crf=0))
    smaller = result(mp4="clips/d.mp4").model_copy(
        update={"width": 16, "height": 24, "second_pass": SecondPass(scale=2.0)}
    )
    assert clip_files.read_frames(str(tmp_path), smaller).shape == frames.shape


def test_a_clip_that_was_not_written_as_mp4_is_told(tmp_path):
    with pytest.raises(UserError, match="render it again with mp4"):
        clip_files.read_frames(str(tmp_path), result(gif="clips/d.gif"))
