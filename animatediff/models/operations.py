"""Arithmetic that a model takes, counted on shapes alone: what a dry run reckons time from."""

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

A100_FLOPS = 125e12
"""Operations a second of an A100 in half precision: 40 % of the 312 TFLOP/s of its data sheet, of which half is left in
float32 (as TF32, 156 TFLOP/s). Arithmetic, not measured here."""


def count_operations(run: Callable[[], object]) -> int:
    """Return the floating-point operations of what `run` computes; on the meta device it computes nothing."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@torch.no_grad()
def encoder_operations(vae: AutoencoderKL, *, height: int, width: int) -> int:
    """Return the operations of encoding one frame.

    Args:
        vae: on the meta device.
        height: of the frame, in pixels.
        width: of the frame, in pixels.
    """
    frame = torch.zeros(1, vae.config.in_channels, height, width, device="meta")
    return count_operations(lambda: vae.encode(frame))
