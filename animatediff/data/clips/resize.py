"""Frames cropped and resized to a clip's size."""

import numpy as np
from PIL import Image


def crop_and_resize(frame: np.ndarray, *, height: int, width: int, crop: np.ndarray | None = None) -> np.ndarray:
    """Crop and resize, in one antialiased step that knows fractions of a pixel.

    Args:
        frame: (h w 3) uint8.
        height: pixels of the result.
        width: pixels of the result.
        crop: (4,) x, y, w, h in shares of the frame's sides; None is the largest in the centre.
    """
    box = _centre(frame, height=height, width=width) if crop is None else _box(frame, crop)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box=box))


def _centre(frame: np.ndarray, *, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest crop with such sides, in the frame's centre."""
    source_height, source_width = frame.shape[:2]
    scale = min(source_height / height, source_width / width)
    crop_height, crop_width = height * scale, width * scale
    left, top = (source_width - crop_width) / 2, (source_height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def _box(frame: np.ndarray, crop: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a crop that is told in shares of the frame's sides."""
    height, width = frame.shape[:2]
    x, y, w, h = (crop * [width, height, width, height]).tolist()
    # One that reaches the border may lie beyond it by a rounding error.
    return max(0.0, x), max(0.0, y), min(width, x + w), min(height, y + h)
