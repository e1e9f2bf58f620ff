"""The single subject of a picture of the sprite world, as a mask.

How its thresholds were measured is told in `pictures`.
"""

import numpy as np
from scipy import ndimage

# Distance from the background in RGB: less than half of `MIN_CONTRAST`, and more than mild noise reaches.
_FAINTEST = 40.0
# Shares of the picture and of its border. Rendered subjects cover 2 to 35 % and never touch the border.
_LEAST_AREA, _MOST_AREA = 0.01, 0.5
_MOST_BORDER = 0.1
_MOST_BESIDE = 0.15  # of the subject's area: anything larger beside it is a second subject
# Of the mask's own edge, in shares of the contrast: less is noise, more is inside. Symmetric, so that the area stays.
_EDGE = (0.15, 0.85)


def find_subject(pixels: np.ndarray) -> np.ndarray | None:
    """Return how much of each pixel the single subject covers, holes filled: (h w) in [0, 1].

    None if there is not one.
    """
    distance = np.linalg.norm(pixels - np.median(_border(pixels), axis=0), axis=-1)
    rough = _largest_part(distance > _FAINTEST)
    if rough is None:
        return None
    rim = rough & ~ndimage.binary_erosion(rough)
    # Full contrast is reached two pixels from the rim, even by a thin line.
    contrast = np.median(ndimage.maximum_filter(distance, 5)[rim])
    whole = _largest_part(distance > contrast / 2)
    if whole is None:
        return None
    mask = np.clip((distance / contrast - _EDGE[0]) / (_EDGE[1] - _EDGE[0]), 0.0, 1.0)
    mask[ndimage.binary_erosion(whole)] = 1.0
    mask[~ndimage.binary_dilation(whole, iterations=2)] = 0.0
    return mask


def _largest_part(marked: np.ndarray) -> np.ndarray | None:
    """Return the largest connected part (h w), holes filled; None if it cannot be a picture's only subject."""
    parts, num = ndimage.label(ndimage.binary_fill_holes(marked))
    if not num:
        return None
    areas = np.bincount(parts.ravel())[1:]
    *_, second, first = [0, *sorted(areas)]
    part: np.ndarray = parts == areas.argmax() + 1
    is_single = second <= _MOST_BESIDE * first and _border(part).mean() <= _MOST_BORDER
    return part if is_single and _LEAST_AREA <= part.mean() <= _MOST_AREA else None


def _border(picture: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of (h w ...), in one row."""
    return np.concatenate([picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]])
