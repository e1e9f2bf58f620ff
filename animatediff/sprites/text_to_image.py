"""The second stage of the sprite world's base model: text encoder and UNet, trained together from scratch."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from animatediff.diffusion.schedule import add_noise
from animatediff.sprites.autoencoder import LATENT_CHANNELS, encode_stills
from animatediff.sprites.fitting import Fit, fit
from animatediff.sprites.parts import make_scheduler, make_text_encoder, make_unet
from animatediff.sprites.stills import draw_stills
from animatediff.sprites.tokenizer import build_tokenizer
from animatediff.sprites.world import caption_words

MAX_LENGTH = 32
"""Tokens of a prompt. Stable Diffusion's 77 would take a third of the time, and captions have at most 16."""

_WIDTHS = (64, 96, 128)
_TEXT_WIDTH = 128
_NUM_PICTURES = 40_000
_BATCH_SIZE = 64
_CAPTION_DROPOUT = 0.1
_SNR_LIMIT = 5.0  # min-SNR-5, arXiv 2303.09556


class TextToImage(nn.Module):
    """What is trained: a UNet and the text encoder that it reads prompts with."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, latents: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """(b c h w) noisy latents, (b) timesteps, (b n) tokens -> (b c h w) predicted noise."""
        return self.unet(latents, timesteps, self.text_encoder(token_ids)[0]).sample


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """The base's tokenizer; its two files are written to `folder`, which exists."""
    return build_tokenizer(caption_words(), folder, max_length=MAX_LENGTH)


def train_text_to_image(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    *,
    seed: int,
    plan: Fit,
    checkpoint: Path | None = None,
    num_pictures: int = _NUM_PICTURES,
) -> tuple[TextToImage, float]:
    """Text encoder and UNet from fresh weights, on the world's captioned stills.

    Args:
        vae: makes the latents.
        tokenizer: reads the captions.
        seed: of weights, pictures and draws.
        plan: how long.
        checkpoint: see `fit`.
        num_pictures: to learn from.

    Returns:
        The model, and the seconds that its steps took.
    """
    stills = draw_stills(num_pictures, seed=seed)
    latents = encode_stills(vae, stills.pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = make_text_encoder(tokenizer, width=_TEXT_WIDTH)
        unet = make_unet(_WIDTHS, layers_per_block=1, latent_channels=LATENT_CHANNELS, text_width=_TEXT_WIDTH)
    model = TextToImage(text_encoder, unet)
    token_ids = tokenize(tokenizer, stills.captions)
    return model, fit_captioned(model, latents, token_ids, tokenizer, plan, seed=seed, checkpoint=checkpoint)


def fit_captioned(
    model: TextToImage,
    latents: Tensor,
    token_ids: Tensor,
    tokenizer: CLIPTokenizer,
    plan: Fit,
    *,
    seed: int,
    batch_size: int = _BATCH_SIZE,
    checkpoint: Path | None = None,
) -> float:
    """Train on captioned latents to predict the noise, with captions dropped for guidance.

    Args:
        model: trained in place, those parameters that require a gradient.
        latents: (n c h w), scaled.
        token_ids: (n m).
        tokenizer: tells the empty caption's tokens.
        plan: how long.
        seed: of the draws.
        batch_size: pictures a step.
        checkpoint: see `fit`.

    Returns:
        Seconds that the steps took.
    """
    signal = make_scheduler().alphas_cumprod
    empty = tokenize(tokenizer, [""])

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        chosen = torch.from_numpy(rng.integers(len(latents), size=batch_size))
        timesteps = torch.from_numpy(rng.integers(len(signal), size=batch_size))
        noise = torch.from_numpy(rng.standard_normal((batch_size, *latents.shape[1:]), np.float32))
        dropped = torch.from_numpy(rng.random((batch_size, 1)) < _CAPTION_DROPOUT)
        predicted = model(
            add_noise(latents[chosen], noise, timesteps, signal),
            timesteps,
            torch.where(dropped, empty, token_ids[chosen]),
        )
        return (_weights(signal[timesteps]) * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()

    return fit(model, loss, plan, checkpoint)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(n m) padded token ids."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return encoded.input_ids


def _weights(signal: Tensor) -> Tensor:
    """min(SNR, limit) / SNR, the weight of the noise's error at each timestep's share of signal. (b)."""
    snr = signal / (1 - signal)
    return snr.clamp(max=_SNR_LIMIT) / snr
