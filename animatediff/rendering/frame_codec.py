"""Frames to latents and back, with the VAE that is resident."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from animatediff.errors import UserError

# The memory's peak: 8 frames of 512x512 take about 5 GB in half precision. Of smaller ones no more are taken.
_FRAMES_PER_CALL = 8
_PIXELS_PER_CALL = _FRAMES_PER_CALL * 512 * 512


class FrameCodec:
    """A VAE that takes clips in chunks of a length that their size decides, so that a frame depends on its clip alone.

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
        found = list(self._chunks_of(pixels, lambda vae, chunk: vae.encode(chunk).latent_dist.mean, 1, "latents"))
        return torch.cat(found) * self._scaling_factor

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
        unscaled = latents / self._scaling_factor
        factor = 2 ** (len(self._vae.config.block_out_channels) - 1)
        decoded = self._chunks_of(unscaled, lambda vae, chunk: vae.decode(chunk).sample, factor, "pixels")
        return torch.cat([_as_bytes(pixels) for pixels in decoded]).numpy()

    def _chunks_of(
        self, frames: Tensor, compute: Callable[[AutoencoderKL, Tensor], Tensor], factor: int, what: str
    ) -> Iterator[Tensor]:
        """Yield what the VAE makes of float32 frames (f c h w), in float32, chunk by chunk.

        Args:
            frames: pixels or latents.
            compute: what the VAE does.
            factor: pixels a side of what one of a frame's places stands for.
            what: is made, for messages.
        """
        vae = self._vae
        per_call = max(1, min(_FRAMES_PER_CALL, _PIXELS_PER_CALL // (frames[0, 0].numel() * factor**2)))
        for chunk in frames.split(per_call):
            while not torch.isfinite(found := _computed(vae, chunk, compute, per_call)).all():
                if vae.dtype == torch.float32:
                    raise UserError(
                        f"the VAE gave NaN or infinite {what}, in single precision too: its weights are broken"
                    )
                # Between its layers many a VAE has numbers that are too large for half precision: the rest of the clip
                # is computed in float32. Weights are swapped in the resident one's own memory, so a copy is widened.
                vae = copy.deepcopy(self._vae).float()
            yield found


def _computed(
    vae: AutoencoderKL, chunk: Tensor, compute: Callable[[AutoencoderKL, Tensor], Tensor], per_call: int
) -> Tensor:
    """Return what a VAE makes of float32 frames, in float32; beside a GPU's half precision, of half as many at once."""
    is_wide = vae.dtype == torch.float32 and vae.device.type != "cpu"
    parts = chunk.split(max(1, per_call // 2)) if is_wide else (chunk,)
    return torch.cat([compute(vae, part.to(vae.dtype)).float() for part in parts])


def _as_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] (f 3 h w) to uint8 (f h w 3) on the CPU."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu()
