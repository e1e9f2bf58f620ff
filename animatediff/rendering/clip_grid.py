"""Clips beside each other that move together: a picture for notebooks, pages and READMEs."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from animatediff.rendering.outputs import encode_webp

_GAP, _LINE, _FONT_SIZE = 8, 18, 13  # pixels between two clips, of a row's name, and of its letters


@dataclass(frozen=True)
class ClipGrid:
    """A row of clips by the row's name. A notebook shows it, moving, where it is the last value of a cell."""

    rows: Mapping[str, Sequence[np.ndarray]]
    """Clips (f h w 3) uint8 RGB, of as many frames each."""
    fps: float = 8.0
    """Frames per second."""
    side: int = 128
    """Width and height of a clip in the picture, in pixels."""

    def frames(self) -> np.ndarray:
        """Return the frames of the whole picture, (f h w 3) uint8 RGB.

        Raises:
            ValueError: there is no clip, or they differ in their number of frames.
        """
        lengths = {len(clip) for clips in self.rows.values() for clip in clips}
        if len(lengths) != 1:
            raise ValueError(f"a grid needs clips of one length, not of {sorted(lengths)} frames")
        return np.stack([self._frame(index) for index in range(lengths.pop())])

    def _frame(self, index: int) -> np.ndarray:
        row_height, column_width = _LINE + self.side + _GAP, self.side + _GAP
        num_columns = max(map(len, self.rows.values()))
        sheet = Image.new("RGB", (num_columns * column_width - _GAP, len(self.rows) * row_height - _GAP), "white")
        pen = ImageDraw.Draw(sheet)
        for row, (name, clips) in enumerate(self.rows.items()):
            pen.text((0, row * row_height), name, "black", font=ImageFont.load_default(_FONT_SIZE))
            for column, clip in enumerate(clips):
                picture = Image.fromarray(clip[index]).resize((self.side, self.side), Image.Resampling.NEAREST)
                sheet.paste(picture, (column * column_width, row * row_height + _LINE))
        return np.asarray(sheet)

    def _repr_html_(self) -> str:
        picture = base64.b64encode(encode_webp(self.frames(), fps=self.fps)).decode()
        return f'<img src="data:image/webp;base64,{picture}" alt="{len(self.rows)} rows of moving clips">'
