"""The still of what led a clip: all of it is there, at a size that pages load by the hundred."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from animatediff.rendering.conditions.condition_sheet import (
    ShownCondition,
    ShownPicture,
    encode_condition_sheet,
    shown_pictures,
)
from animatediff.rendering.formats import POSTER_PIXELS

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200)}


def picture(colour, *, height=48, width=64, caption="frame 0"):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:] = COLOURS[colour]
    return ShownPicture(pixels, caption)


def sheet(*conditions):
    with Image.open(io.BytesIO(encode_condition_sheet(conditions))) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB")).astype(int)


def shares(pixels):
    """How much of a sheet each colour covers."""
    return {name: float((abs(pixels - colour).max(-1) < 30).mean()) for name, colour in COLOURS.items()}


def test_of_many_pictures_the_first_the_middle_and_the_last_are_shown_with_their_frames():
    video = torch.linspace(0, 1, 16)[:, None, None, None].expand(16, 3, 4, 6)
    found = shown_pictures(video, range(16))
    assert [each.caption for each in found] == ["frame 0", "frame 8", "frame 15"]
    assert [int(each.pixels[0, 0, 0]) for each in found] == [0, 136, 255]
    assert [each.caption for each in shown_pictures(video[:2], [0, 15])] == ["frame 0", "frame 15"]
    assert [each.caption for each in shown_pictures(video[:1], None)] == ["every frame"]


def test_every_condition_is_on_the_sheet():
    found = shares(
        sheet(ShownCondition("control 1", (picture("red"), picture("green"))), ShownCondition("a", (picture("blue"),)))
    )
    assert min(found.values()) > 0.1
    assert max(found.values()) / min(found.values()) < 1.1


@pytest.mark.parametrize("size", [{}, {"height": 96}, {"width": 200}], ids=["4:3", "tall", "wide"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_sheet_of_one_condition_is_as_large_as_a_poster(size, number):
    height, width, _ = sheet(ShownCondition("control 1", (picture("red", **size),) * number)).shape
    assert POSTER_PIXELS - 24 <= max(height, width) <= POSTER_PIXELS


def test_many_conditions_make_it_higher_and_no_wider():
    pictures = tuple(picture("green", height=64) for _ in range(6))
    height, width, _ = sheet(*[ShownCondition(f"control {number}", pictures) for number in range(5)]).shape
    assert width <= POSTER_PIXELS < height


def test_the_bytes_depend_on_the_conditions_alone():
    conditions = [ShownCondition("control 1", (picture("red"),))]
    assert encode_condition_sheet(conditions) == encode_condition_sheet(conditions)
    assert encode_condition_sheet(conditions) != encode_condition_sheet(
        [ShownCondition("control 2", (picture("red"),))]
    )
    other = [ShownCondition("control 1", (picture("red", caption="frame 3"),))]
    assert encode_condition_sheet(conditions) != encode_condition_sheet(other)
