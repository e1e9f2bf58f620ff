"""Clips beside each other that move together."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from animatediff.rendering.clip_grid import ClipGrid


def clip(colour, num_frames=3):
    """Frames of one colour that gets darker."""
    shades = np.linspace(1, 0.5, num_frames)[:, None, None, None]
    return np.broadcast_to(np.array(colour) * shades, (num_frames, 8, 8, 3)).round().astype(np.uint8)


RED, BLUE, GREEN = (clip(colour) for colour in [(200, 0, 0), (0, 0, 200), (0, 200, 0)])


def test_each_clip_stands_in_its_row_and_its_frames_follow_each_other():
    frames = ClipGrid({"one": [RED, BLUE], "two": [GREEN]}, side=16).frames()
    assert frames.shape == (3, 2 * (18 + 16) + 8, 2 * 16 + 8, 3)
    for index in range(3):
        for found, expected in (
            (frames[index, 18:34, :16], RED),
            (frames[index, 18:34, 24:], BLUE),
            (frames[index, 60:, :16], GREEN),
            (frames[index, 60:, 24:], clip((255, 255, 255), 1).repeat(3, axis=0)),
        ):
            np.testing.assert_array_equal(found, np.broadcast_to(expected[index, 0, 0], found.shape))


def test_the_name_of_a_row_is_written_above_it():
    named, unnamed = (ClipGrid({name: [RED]}, side=64).frames()[0] for name in ("base", ""))
    assert (named[:18] != unnamed[:18]).any()
    np.testing.assert_array_equal(named[18:], unnamed[18:])


def test_a_notebook_gets_a_picture_that_moves():
    html = ClipGrid({"one": [RED]}, fps=4)._repr_html_()
    data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.n_frames, picture.size) == ("WEBP", 3, (128, 146))
        picture.seek(1)
        picture.load()
        assert picture.info["duration"] == 250


@pytest.mark.parametrize("rows", [{}, {"one": []}, {"one": [RED], "two": [clip((1, 2, 3), num_frames=2)]}])
def test_clips_of_other_lengths_or_none_are_refused(rows):
    with pytest.raises(ValueError, match="clips of one length"):
        ClipGrid(rows).frames()
