"""The part of a video's picture that is used."""

from typing import NamedTuple


class CropBox(NamedTuple):
    """The part of a picture that is no bar, in pixels of the picture as it is displayed: upright and square."""

    x: int
    y: int
    w: int
    h: int
