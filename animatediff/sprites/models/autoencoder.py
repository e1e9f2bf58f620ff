"""The first stage of the sprite world's base model: the VAE, 64 x 64 pixels to 8 channels of 8 x 8 latents."""

import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from animatediff.sprites.models.fitting import Fit, fit
from animatediff.sprites.models.parts import make_vae
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE, STYLES
from animatediff.sprites.scenes.stills import Stills, draw_stills

logger = logging.getLogger(__name__)

LATENT_CHANNELS = 8
_WIDTHS = (16, 32, 64, 96)
LATENT_SIZE = SAMPLE_SIZE // 2 ** (len(_WIDTHS) - 1)
_NORM_GROUPS = 4
_NUM_PICTURES = 12_000
_ODD_COLOURS = 0.15
# The plain style twice: it is what the base shows.
_STYLES = ("plain", *STYLES)
_CROP = 32
_CROP_SHARE = 0.7  # of the steps, the first ones
_BATCH_SIZE = 16
_KL_WEIGHT = 2e-4
_MOST_NOISE = 0.3  # in each channel's standard deviations
_EDGE_WEIGHT = 0.1


def train_vae(
    *, seed: int, plan: Fit, checkpoint: Path | None = None, num_pictures: int = _NUM_PICTURES
) -> tuple[AutoencoderKL, float]:
    """Return a VAE whose latents have zero mean and unit variance in every channel over the world's plain pictures.

    It sees all styles of the world and odd colours, as Stable Diffusion's has seen far more than its UNet: a
    personalised checkpoint brings its own style, and the base's VAE has to show it. The first steps see crops about
    the shape: most of a whole picture is background, which teaches nothing.

    Args:
        seed: of weights, pictures and draws.
        plan: how long.
        checkpoint: see `fit`.
        num_pictures: to learn from.

    Returns:
        The VAE, and the seconds that its steps took.
    """
    stills = draw_stills(num_pictures, seed=seed, styles=_STYLES, odd_colours=_ODD_COLOURS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = make_vae(
            _WIDTHS, latent_channels=LATENT_CHANNELS, norm_num_groups=_NORM_GROUPS, mid_block_add_attention=False
        )
    vae.to(memory_format=torch.channels_last)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        pixels = _batch(stills, rng, is_crop=step < _CROP_SHARE * plan.num_steps)
        return _loss(vae, pixels, torch.Generator().manual_seed(seed + step))

    seconds = fit(vae, loss, plan, checkpoint)
    vae.to(memory_format=torch.contiguous_format)
    _normalise(vae, draw_stills(min(2_000, num_pictures), seed=seed + 1).pixels)
    return vae, seconds


def to_pixels(pictures: np.ndarray) -> Tensor:
    """Convert (n h w 3) uint8 to (n 3 h w) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def encode_stills(vae: AutoencoderKL, pictures: np.ndarray, *, batch_size: int = 64) -> Tensor:
    """Encode (n h w 3) uint8 to (n c h w) posterior means, times the scaling factor."""
    batches = to_pixels(pictures).split(batch_size)
    return torch.cat([vae.encode(pixels).latent_dist.mean for pixels in batches]) * vae.config.scaling_factor


def _batch(stills: Stills, rng: np.random.Generator, *, is_crop: bool) -> Tensor:
    """(b 3 h w) pixels in [-1, 1], mirrored at random."""
    chosen = rng.integers(len(stills.captions), size=_BATCH_SIZE)
    pictures = stills.pixels[chosen]
    if is_crop:
        corners = stills.centres[chosen] - _CROP / 2 + rng.integers(-_CROP // 3, _CROP // 3 + 1, size=(_BATCH_SIZE, 2))
        left_top = corners.round().astype(int).clip(0, SAMPLE_SIZE - _CROP)
        pictures = np.stack(
            [p[y : y + _CROP, x : x + _CROP] for p, (x, y) in zip(pictures, left_top.tolist(), strict=True)]
        )
    mirrored = pictures[:, :, ::-1] if rng.random() < 0.5 else pictures
    return to_pixels(np.ascontiguousarray(mirrored)).contiguous(memory_format=torch.channels_last)


def _loss(vae: AutoencoderKL, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of the pixels, and absolute error of their differences to the next ones, which keeps edges sharp.

    Absolute error of the pixels themselves, or a learning rate above 1e-3, left the colours mixed for a long time. The
    decoder sees latents with up to `_MOST_NOISE`, because those that a UNet draws are never exact either.
    """
    posterior = vae.encode(pixels).latent_dist
    latents = posterior.sample(generator)
    size = _MOST_NOISE * torch.rand((len(pixels), 1, 1, 1), generator=generator) * _deviation(latents)
    error = vae.decode(latents + size * torch.randn(latents.shape, generator=generator)).sample - pixels
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return error.square().mean() + _EDGE_WEIGHT * edges + _KL_WEIGHT * kl


def _deviation(latents: Tensor) -> Tensor:
    """(b c h w) -> (1 c 1 1) standard deviations."""
    return latents.detach().std(dim=(0, 2, 3), keepdim=True)


@torch.no_grad()
def _normalise(vae: AutoencoderKL, pictures: np.ndarray) -> None:
    """Fold each latent channel's mean and standard deviation into the convolutions next to the latents.

    `scaling_factor` is one number for all channels; a channel of small variance would be all noise to the UNet.
    """
    latents = encode_stills(vae, pictures) / vae.config.scaling_factor
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    assert encoder is not None
    assert decoder is not None
    # Encoder: z -> (z - mean) / std; its second half is the log-variance. Decoder: the same undone.
    encoder.weight[: len(mean)] /= std[:, None, None, None]
    encoder.bias[: len(mean)] = (encoder.bias[: len(mean)] - mean) / std
    encoder.bias[len(mean) :] -= 2 * std.log()
    decoder.bias += (decoder.weight * mean[None, :, None, None]).sum(dim=(1, 2, 3))
    decoder.weight *= std[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)
