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


def largest_box(height: int, width: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return x, y, w, h of the largest crop of a picture that has the aspect ratio of `size`, in its centre.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        size: (height, width) that it is resized to.
    """
    scale = min(height / size[0], width / size[1])
    w, h = size[1] * scale, size[0] * scale
    return (width - w) / 2, (height - h) / 2, w, h


def _centre(frame: np.ndarray, *, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest crop with such sides, in the frame's centre."""
    left, top, crop_width, crop_height = largest_box(frame.shape[0], frame.shape[1], (height, width))
    return left, top, left + crop_width, top + crop_height


def _box(frame: np.ndarray, crop: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a crop that is told in shares of the frame's sides."""
    height, width = frame.shape[:2]
    x, y, w, h = (crop * [width, height, width, height]).tolist()
    # One that reaches the border may lie beyond it by a rounding error.
    return max(0.0, x), max(0.0, y), min(width, x + w), min(height, y + h)
