"""The sprite world's text encoder and UNet, trained together: from scratch, then on pictures that turn more often."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from animatediff.diffusion.schedule import add_noise
from animatediff.sprites.models.autoencoder import LATENT_CHANNELS, LATENT_SIZE, encode_stills
from animatediff.sprites.models.fitting import Fit, fit
from animatediff.sprites.models.parts import make_scheduler, make_text_encoder, make_unet
from animatediff.sprites.models.tokenizer import build_tokenizer
from animatediff.sprites.scenes.stills import Stills
from animatediff.sprites.scenes.world import caption_words

MAX_LENGTH = 24
"""Tokens of a prompt. Stable Diffusion's 77 would take a third of the time, and captions have at most 16."""

_WIDTHS = (64, 96, 128)
_TEXT_WIDTH = 128
_CAPTION_DROPOUT = 0.1
# Of the logarithm of the noise's size in units of the signal's, as in arXiv 2206.00364: from 0.4 to 5 in two thirds of
# the draws. There is decided where a shape stands and what it is; evenly drawn timesteps are mostly noise above 2.
_LOG_NOISE_MEAN, _LOG_NOISE_DEVIATION = 0.4, 1.2


class TextToImage(nn.Module):
    """What is trained: a UNet and the text encoder that it reads prompts with."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.unet = unet

    def forward(self, latents: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """Return the predicted noise (b c h w) of noisy latents (b c h w) at timesteps (b), for tokens (b n)."""
        return self.unet(latents, timesteps, self.text_encoder(token_ids)[0]).sample


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return the base's tokenizer; its two files are written to `folder`, which exists."""
    return build_tokenizer(caption_words(), folder, max_length=MAX_LENGTH)


@dataclass(frozen=True)
class Course:
    """How the model learns from a set of captioned pictures."""

    plan: Fit
    """Steps, learning rate and averaging."""
    seed: int
    """Seed of the draws of pictures, timesteps and noise."""
    checkpoint: Path | None = None
    """File that `fit` goes on from after a kill; another one than those of the stages before."""
    batch_size: int = 32
    """Pictures a step."""
    auxiliary_loss: Callable[[int], Tensor] | None = None
    """Step -> another loss of the model, which is added."""


def train_text_to_image(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, stills: Stills, course: Course
) -> tuple[TextToImage, float]:
    """Train text encoder and UNet from fresh weights, on the world's captioned stills.

    Args:
        vae: makes the latents.
        tokenizer: reads the captions.
        stills: to learn from.
        course: its seed is that of the weights, too.

    Returns:
        The model, and the seconds that its steps took.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.seed)
        text_encoder = make_text_encoder(tokenizer, width=_TEXT_WIDTH)
        unet = make_unet(
            _WIDTHS,
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            latent_size=LATENT_SIZE,
            text_width=_TEXT_WIDTH,
        )
    model = TextToImage(text_encoder, unet)
    return model, refine_text_to_image(model, vae, tokenizer, stills, course)


def refine_text_to_image(
    model: TextToImage, vae: AutoencoderKL, tokenizer: CLIPTokenizer, stills: Stills, course: Course
) -> float:
    """Go on with other pictures.

    Args:
        model: trained in place.
        vae: makes the latents.
        tokenizer: reads the captions.
        stills: to learn from.
        course: with another seed than those of the pictures that the model has seen.

    Returns:
        Seconds that the steps took.
    """
    latents, token_ids = encode_stills(vae, stills.pixels), tokenize(tokenizer, stills.captions)
    return fit_captioned(model, latents, token_ids, tokenizer, course)


def fit_captioned(
    model: TextToImage, latents: Tensor, token_ids: Tensor, tokenizer: CLIPTokenizer, course: Course
) -> float:
    """Train on captioned latents to predict the noise, with captions dropped for guidance.

    The error of the noise weighs 1 / sqrt(signal): half way, by ratio, between what diffusion minimises and the error
    of the picture itself. What a caption says of a flat picture is decided where there is little signal, and there
    the noise's error is small whatever the model makes of the caption.

    Args:
        model: trained in place, those parameters that require a gradient.
        latents: (n c h w), scaled.
        token_ids: (n m).
        tokenizer: tells the empty caption's tokens.
        course: how.

    Returns:
        Seconds that the steps took.
    """
    alphas_cumprod = make_scheduler().alphas_cumprod
    weights = alphas_cumprod.rsqrt()
    empty = tokenize(tokenizer, [""])
    batch_size, auxiliary_loss = course.batch_size, course.auxiliary_loss

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng((course.seed, step))
        chosen = torch.from_numpy(rng.integers(len(latents), size=batch_size))
        timesteps = draw_timesteps(rng, alphas_cumprod, batch_size)
        noise = torch.from_numpy(rng.standard_normal((batch_size, *latents.shape[1:]), np.float32))
        dropped = torch.from_numpy(rng.random((batch_size, 1)) < _CAPTION_DROPOUT)
        predicted = model(
            add_noise(latents[chosen], noise, timesteps, alphas_cumprod),
            timesteps,
            torch.where(dropped, empty, token_ids[chosen]),
        )
        error = (weights[timesteps] * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()
        return error if auxiliary_loss is None else error + auxiliary_loss(step)

    return fit(model, loss, course.plan, course.checkpoint)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return (n m) padded token ids."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return encoded.input_ids


def draw_timesteps(rng: np.random.Generator, alphas_cumprod: Tensor, num: int) -> Tensor:
    """Draw timesteps (num) at which the noise's size is distributed log-normally."""
    sizes = (1 / alphas_cumprod - 1).sqrt().numpy()
    wanted = np.exp(rng.normal(_LOG_NOISE_MEAN, _LOG_NOISE_DEVIATION, num))
    return torch.from_numpy(np.searchsorted(sizes, wanted).clip(max=len(sizes) - 1))
