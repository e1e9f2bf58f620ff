"""SDXL's sizes: what its UNet is told of how large a picture was, and how it was cropped."""

import torch
from torch import Tensor


def uncropped_time_ids(num_clips: int, *, height: int, width: int, device: torch.device) -> Tensor:
    """Return SDXL's `time_ids` of clips that were never cropped or resized: (b 6) float32."""
    return size_time_ids((height, width), (0, 0), (height, width), device=device).expand(num_clips, 6)


def size_time_ids(
    original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int], *, device: torch.device
) -> Tensor:
    """Return SDXL's `time_ids` of a clip: SDXL's paper, arXiv 2307.01952, section 2.2.

    Args:
        original: (height, width) of the picture before it was resized, in pixels.
        crop: (top, left) of the clip in the resized picture, in pixels.
        target: (height, width) of the clip, in pixels.
        device: where the result is.

    Returns:
        (6) float32.
    """
    return torch.tensor([*original, *crop, *target], dtype=torch.float32, device=device)
