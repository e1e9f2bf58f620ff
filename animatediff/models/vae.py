"""Pixels to latents with a frozen VAE, and the fingerprint that says which VAE made them."""

import hashlib

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

# The memory's peak: 8 frames of 512 x 512, or 2 of 1024 x 1024, take 5.1 GiB in float32 (measured), half of it in half
# precision.
_PIXELS_PER_CALL = 8 * 512 * 512
_PRECISIONS = ("float32", "float16", "bfloat16")


def fingerprint(vae: AutoencoderKL, dtype: str) -> str:
    """Return the hash of what decides the latents of given pixels: the encoder's weights, and their precision in use.

    Args:
        vae: loaded in float32, so that the same weights stored in another precision differ only where they do.
        dtype: the precision it encodes in, for example `float16`.
    """
    digest = hashlib.sha256(f"AutoencoderKL {dtype}".encode())
    for name, tensor in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "quant_conv.")):
            digest.update(name.encode())
            digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def has_fingerprint(vae: AutoencoderKL, wanted: str) -> bool:
    """Return whether a VAE has a fingerprint, in whichever precision it encoded.

    Args:
        vae: loaded in float32.
        wanted: as `fingerprint` gave it.
    """
    return any(fingerprint(vae, dtype) == wanted for dtype in _PRECISIONS)


@torch.no_grad()
def encode_frames(vae: AutoencoderKL, frames: np.ndarray) -> np.ndarray:
    """Return the latents of a clip: the posterior's mean, not multiplied by the scaling factor.

    Frames are encoded as many at once as their size allows, whatever the clip's length: the memory has a bound, and the
    latents depend on the clip alone.

    Args:
        vae: gives the device and the precision.
        frames: (f h w 3) uint8 RGB, h and w divisible by the VAE's factor.

    Returns:
        (f c h w) float16, h and w in latents, as stored in shards.
    """
    _, height, width, _ = frames.shape
    chunks = torch.from_numpy(frames).split(max(1, _PIXELS_PER_CALL // (height * width)))
    return torch.cat([_encode_chunk(vae, chunk) for chunk in chunks]).numpy()


def _encode_chunk(vae: AutoencoderKL, frames: Tensor) -> Tensor:
    pixels = frames.to(vae.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
    return vae.encode(pixels).latent_dist.mean.to(torch.float16).cpu()
