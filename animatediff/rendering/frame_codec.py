"""Frames to latents and back, with the VAE that is resident."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from animatediff.errors import UserError

# The memory's peak: 8 frames of 512x512 take about 5 GB in half precision.
_FRAMES_PER_CALL = 8


class FrameCodec:
    """A VAE that takes clips in chunks of a fixed length, so that a frame does not depend on what is beside the clip.

    Args:
        vae: the resident one; its weights may change between calls.
        scaling_factor: the base's.
    """

    def __init__(self, vae: AutoencoderKL, scaling_factor: float) -> None:
        self._vae, self._scaling_factor = vae, scaling_factor

    def encode(self, frames: Tensor) -> Tensor:
        """Return the latents of frames: the posterior's mean.

        Args:
            frames: (f 3 h w) RGB in [0, 1], h and w divisible by the VAE's factor.

        Returns:
            (f c h w) float32 on the VAE's device, multiplied by the scaling factor.

        Raises:
            UserError: the VAE's weights are broken.
        """
        pixels = (2 * frames - 1).to(self._vae.device)
        return torch.cat([self._encode(chunk) for chunk in pixels.split(_FRAMES_PER_CALL)]) * self._scaling_factor

    def decode(self, latents: Tensor) -> np.ndarray:
        """Return the frames of latents.

        Args:
            latents: (f c h w) float32, multiplied by the scaling factor.

        Returns:
            (f h w 3) uint8 RGB.

        Raises:
            UserError: the latents are NaN or infinite, or the VAE's weights are broken.
        """
        if not torch.isfinite(latents).all():
            raise UserError(
                "the UNet gave NaN or infinite latents: its weights, the text encoder's or the motion module's are "
                "broken, or too large for half precision"
            )
        chunks = (latents / self._scaling_factor).split(_FRAMES_PER_CALL)
        return torch.cat([self._decode(chunk) for chunk in chunks]).numpy()

    def _encode(self, pixels: Tensor) -> Tensor:
        return self._run_with_float32_fallback(lambda vae, chunk: vae.encode(chunk).latent_dist.mean, pixels, "latents")

    def _decode(self, latents: Tensor) -> Tensor:
        """Float32 latents (f c h w) to uint8 pixels (f h w 3) on the CPU."""
        pixels = self._run_with_float32_fallback(lambda vae, chunk: vae.decode(chunk).sample, latents, "pixels")
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()

    def _run_with_float32_fallback(
        self, compute: Callable[[AutoencoderKL, Tensor], Tensor], chunk: Tensor, what: str
    ) -> Tensor:
        """Return what the VAE makes of a chunk of float32 frames, in float32."""
        dtype = self._vae.dtype
        found = compute(self._vae, chunk.to(dtype)).float()
        if dtype != torch.float32 and not torch.isfinite(found).all():
            # Between its layers many a VAE has numbers that are too large for half precision. Weights are swapped in
            # the resident one's own memory, so a copy is widened; half the frames take as much memory as all did.
            precise = copy.deepcopy(self._vae).float()
            found = torch.cat([compute(precise, part) for part in chunk.split(_FRAMES_PER_CALL // 2)])
        if not torch.isfinite(found).all():
            raise UserError(f"the VAE gave NaN or infinite {what}, in single precision too: its weights are broken")
        return found
