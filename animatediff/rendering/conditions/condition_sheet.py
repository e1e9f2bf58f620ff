"""What a clip was led by, as one small picture: the pictures of its controls, of its image prompts, and its beginning.

They are shown as the networks saw them, cropped, resized and preprocessed, with the frames that they are for.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from animatediff.rendering.conditions.pictures import as_pixels
from animatediff.rendering.formats import POSTER_PIXELS

_MAX_SHOWN = 6  # pictures of one condition; of more, such as a video's, the first, the middle and the last are shown
_COLUMNS = 3
_GAP, _LINE, _FONT_SIZE = 4, 15, 12  # pixels between two pictures, of a line of text, and of its letters
_BACKGROUND, _TEXT = (236, 236, 239), (22, 24, 29)


class ShownPicture(NamedTuple):
    """A picture, and what it is for."""

    pixels: np.ndarray
    """(h w 3) uint8 RGB."""
    caption: str
    """Such as `frame 15`."""


class ShownCondition(NamedTuple):
    """What a clip was led by: a control, an image prompt, or what it began from."""

    name: str
    """Such as `control 1: ControlNet, canny`."""
    pictures: tuple[ShownPicture, ...]


def shown_pictures(pictures: Tensor, frames: Sequence[int] | None) -> tuple[ShownPicture, ...]:
    """Return a condition's pictures, all of a few; of many the first, the middle and the last.

    Args:
        pictures: (k 3 h w) RGB in [0, 1].
        frames: of the clip, one for each picture, from 0; None is all frames for every picture.
    """
    found = []
    for place in _shown_places(len(pictures)):
        caption = "every frame" if frames is None else f"frame {frames[place]}"
        found.append(ShownPicture(as_pixels(pictures[place]), caption))
    return tuple(found)


def encode_condition_sheet(conditions: Sequence[ShownCondition]) -> bytes:
    """Return a small WebP of all conditions, each below its name.

    It is `POSTER_PIXELS` wide at most, as a poster. Few conditions are made as large as that allows in height, too; of
    many the pictures stay large enough to be seen, and the sheet becomes higher.

    Args:
        conditions: at least one.
    """
    buffer = io.BytesIO()
    _sheet(conditions).save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def _shown_places(number: int) -> Sequence[int]:
    return range(number) if number <= _MAX_SHOWN else (0, number // 2, number - 1)


def _sheet(conditions: Sequence[ShownCondition]) -> Image.Image:
    columns = min(_COLUMNS, max(len(condition.pictures) for condition in conditions))
    rows = sum(_num_rows(condition) for condition in conditions)
    height, width = conditions[0].pictures[0].pixels.shape[:2]
    tile_width = _tile_width(height / width, columns, rows, len(conditions))
    tile = tile_width, max(1, round(tile_width * height / width))
    row_height = tile[1] + _LINE + _GAP
    sheet_height = len(conditions) * _LINE + rows * row_height
    # A name may be wider than a single small picture.
    sheet = Image.new("RGB", (max(POSTER_PIXELS // 2, columns * (tile_width + _GAP) - _GAP), sheet_height), _BACKGROUND)
    pen, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE), 0
    for condition in conditions:
        pen.text((2, top), condition.name, _TEXT, font=font)
        top += _LINE
        for place, picture in enumerate(condition.pictures):
            row, column = divmod(place, columns)
            corner = column * (tile_width + _GAP), top + row * row_height
            sheet.paste(ImageOps.contain(Image.fromarray(picture.pixels), tile, Image.Resampling.LANCZOS), corner)
            pen.text((corner[0] + 2, corner[1] + tile[1]), picture.caption, _TEXT, font=font)
        top += -(-len(condition.pictures) // columns) * row_height
    return sheet


def _num_rows(condition: ShownCondition) -> int:
    return -(-len(condition.pictures) // _COLUMNS)


def _tile_width(ratio: float, columns: int, rows: int, num_names: int) -> int:
    """Return the width of a picture in the sheet.

    Args:
        ratio: of a picture's height to its width.
        columns: pictures beside each other.
        rows: of pictures, below each other.
        num_names: lines of text above the rows.
    """
    widest = (POSTER_PIXELS + _GAP) // columns - _GAP
    smallest = (POSTER_PIXELS + _GAP) // _COLUMNS - _GAP
    by_height = (POSTER_PIXELS - num_names * _LINE - rows * (_LINE + _GAP)) / (rows * ratio)
    return max(smallest, min(widest, int(by_height)))
