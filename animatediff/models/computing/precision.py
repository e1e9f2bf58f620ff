"""The precision that models compute in: the one that is asked for, or what suits their device."""

import torch

from animatediff.models.computing import processor
from animatediff.models.config import Precision


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 without emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return processor.multiplies_bfloat16()


def training_dtype(precision: Precision, device: torch.device, *, is_native: bool) -> torch.dtype:
    """Return the dtype of frozen weights and of matrix products in training.

    Args:
        precision: `ComputeConfig.precision`.
        device: where the model computes.
        is_native: whether the devices of all workers multiply bfloat16 natively.
    """
    if precision != "auto":
        return _named(precision)
    if is_native:
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def unet_dtype(precision: Precision | None, device: torch.device) -> torch.dtype:
    """Return the dtype of a UNet that renders, and of the networks that add to its features.

    Args:
        precision: `ModelFiles.precision`.
        device: where it computes.
    """
    if precision == "auto":
        precision = "bfloat16" if device.type == "cpu" and processor.multiplies_bfloat16() else None
    return _own(device) if precision is None else _named(precision)


def encoder_dtype(unet: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of what computes once a clip beside a UNet: VAE, text encoders, image encoders.

    Never bfloat16, whose steps of 1 / 256 would be seen in the VAE's pixels, for little time.

    Args:
        unet: the UNet's.
        device: where they compute.
    """
    return torch.float32 if unet == torch.float32 else _own(device)


def _own(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.float16


def _named(precision: Precision) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, precision)
    return dtype
