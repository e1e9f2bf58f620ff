"""From frames to what control networks were trained on, such as their edges: by name, or a user's own function.

A preprocessor takes and gives pictures (f 3 H W), RGB in [0, 1]; those here look at each frame by itself.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from animatediff.errors import UserError, any_error_as_user_error
from animatediff.plugins import load_function

Preprocessor = Callable[[Tensor], Tensor]
"""Pictures (f 3 H W), float32 RGB in [0, 1] -> as many of that size and range."""

# The thresholds of the preprocessors that people use with canny ControlNets: of |dx| + |dy|, between 0 and 2040.
_WEAK, _STRONG = 100, 200
# Lines of a scribble are as wide as a pen's of 5 pixels on a picture of 512, whatever its size.
_PIXELS_PER_PEN_RADIUS = 256
# tan(22.5 degrees) in units of 2^-15, as OpenCV rounds it.
_SHIFT = 15
_TAN_22 = 13573
_ALL_8 = np.ones((3, 3), bool)


def find_preprocessor(name: str) -> Preprocessor:
    """Return what is called so in catalogs.

    Args:
        name: one of `PREPROCESSORS`, or `package.module:function`, a user's own.

    Raises:
        UserError: there is none.
    """
    if name in PREPROCESSORS:
        return PREPROCESSORS[name]
    if ":" not in name:
        raise UserError(
            f"there is no preprocessor {name}: take one of {', '.join(PREPROCESSORS)}, or name a function of your own "
            "as package.module:function"
        )
    own: Preprocessor = load_function(name, "preprocessor")
    return lambda pictures: _checked(own, name, pictures)


def canny(pictures: Tensor) -> Tensor:
    """Return Canny's edges, white lines of one pixel on black, exactly OpenCV's of `Canny(frame, 100, 200)`."""
    return _of_each_frame(_edges, pictures)


def scribble(pictures: Tensor) -> Tensor:
    """Return the main edges as a pen would draw them, white on black, as SparseCtrl's and ControlNet's scribbles are.

    Small detail is blurred away before. Lines are as wide in proportion to the picture whatever its size.
    """
    radius = max(1, round(min(pictures.shape[-2:]) / _PIXELS_PER_PEN_RADIUS))
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    pen = rows**2 + columns**2 <= radius**2 + 1

    def draw(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
        smooth = ndimage.gaussian_filter(frame, (radius, radius, 0))
        return ndimage.binary_dilation(_edges(smooth), pen)

    return _of_each_frame(draw, pictures)


def invert(pictures: Tensor) -> Tensor:
    """Return the negative: black lines on white become the white ones on black that networks were trained on."""
    return 1 - pictures


def unchanged(pictures: Tensor) -> Tensor:
    """Return the pictures, which are already what the network takes."""
    return pictures


PREPROCESSORS: dict[str, Preprocessor] = {
    "none": unchanged,
    "canny": canny,
    "scribble": scribble,
    "invert": invert,
}
"""By the name in catalogs."""


def _checked(own: Preprocessor, name: str, pictures: Tensor) -> Tensor:
    with any_error_as_user_error(f"preprocessor {name} failed"):
        found = own(pictures)
    if not isinstance(found, Tensor) or found.shape != pictures.shape or not found.is_floating_point():
        given = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"preprocessor {name} gave {given}: it is to give float pictures {tuple(pictures.shape)}")
    low, high = found.aminmax()
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise UserError(f"preprocessor {name} gave numbers from {low:g} to {high:g}: they are to lie in [0, 1]")
    return found.float()


def _of_each_frame(draw: Callable[[NDArray[np.uint8]], NDArray[np.bool_]], pictures: Tensor) -> Tensor:
    """Return lines, white on black, of frames (H W 3) in 8 bits."""
    frames = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    lines = torch.from_numpy(np.stack([draw(frame) for frame in frames]))
    return lines.to(pictures.device, torch.float32)[:, None].expand(-1, 3, -1, -1).contiguous()


def _edges(frame: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return Canny's edges (H W): lines of steepest gradient, strong somewhere and weak at least everywhere."""
    dx, dy = _gradient(frame)
    steepness = np.abs(dx) + np.abs(dy)
    candidates = (steepness > _WEAK) & _is_ridge(steepness, dx, dy)
    parts, count = ndimage.label(candidates, _ALL_8)
    is_line = np.zeros(count + 1, bool)
    is_line[parts[candidates & (steepness > _STRONG)]] = True
    return is_line[parts]


def _gradient(frame: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return Sobel's gradient (H W) of the channel in which it is steepest, the first of several."""
    smooth, slope = (1, 2, 1), (-1, 0, 1)
    pixels = frame.astype(np.int32)
    dx, dy = (
        ndimage.correlate1d(ndimage.correlate1d(pixels, slope, axis, mode="nearest"), smooth, 1 - axis, mode="nearest")
        for axis in (1, 0)
    )
    channel = np.argmax(np.abs(dx) + np.abs(dy), axis=2, keepdims=True)
    return np.take_along_axis(dx, channel, 2)[..., 0], np.take_along_axis(dy, channel, 2)[..., 0]


def _is_ridge(steepness: NDArray[np.int32], dx: NDArray[np.int32], dy: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return where no neighbour along the gradient is steeper; of two alike side by side it is the first."""
    height, width = steepness.shape
    padded = np.pad(steepness, 1)

    def neighbour(down: int, right: int) -> NDArray[np.int32]:
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    run, rise = np.abs(dx) * _TAN_22, np.abs(dy) << _SHIFT
    is_flat = rise < run  # below 22.5 degrees: the neighbours are left and right
    is_steep = rise > run + (np.abs(dx) << (_SHIFT + 1))  # above 67.5, whose tangent is 2 more: above and below
    along = [
        (steepness > neighbour(0, -1)) & (steepness >= neighbour(0, 1)),
        (steepness > neighbour(-1, 0)) & (steepness >= neighbour(1, 0)),
        (steepness > neighbour(-1, 1)) & (steepness > neighbour(1, -1)),
        (steepness > neighbour(-1, -1)) & (steepness > neighbour(1, 1)),
    ]
    return np.select([is_flat, is_steep, (dx ^ dy) < 0], along[:3], along[3])
