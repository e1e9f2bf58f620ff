"""The sprite world's text encoder and UNet, trained together: from scratch, then on pictures that turn more often."""

from collections.abc import Callable
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
from animatediff.sprites.scenes.stills import Stills, draw_stills
from animatediff.sprites.scenes.world import caption_words

MAX_LENGTH = 24
"""Tokens of a prompt. Stable Diffusion's 77 would take a third of the time, and captions have at most 16."""

_WIDTHS = (64, 96, 128)
_TEXT_WIDTH = 128
_NUM_PICTURES = 30_000
_BATCH_SIZE = 32
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


def train_text_to_image(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    *,
    seed: int,
    plan: Fit,
    checkpoint: Path | None = None,
    num_pictures: int = _NUM_PICTURES,
) -> tuple[TextToImage, float]:
    """Train text encoder and UNet from fresh weights, on the world's captioned stills.

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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = make_text_encoder(tokenizer, width=_TEXT_WIDTH)
        unet = make_unet(
            _WIDTHS,
            layers_per_block=1,
            latent_channels=LATENT_CHANNELS,
            latent_size=LATENT_SIZE,
            text_width=_TEXT_WIDTH,
        )
    model = TextToImage(text_encoder, unet)
    stills = draw_stills(num_pictures, seed=seed)
    return model, _fit_stills(model, vae, tokenizer, stills, plan, seed, checkpoint)


def refine_text_to_image(
    model: TextToImage,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    *,
    seed: int,
    turned: float,
    plan: Fit,
    also: Callable[[int], Tensor] | None = None,
    checkpoint: Path | None = None,
    num_pictures: int = _NUM_PICTURES,
) -> float:
    """Go on with other pictures, of which more show a shape that is turned.

    Args:
        model: from `train_text_to_image`; trained in place.
        vae: makes the latents.
        tokenizer: reads the captions.
        seed: of pictures and draws; another one than those that the model has seen.
        turned: see `draw_stills`.
        plan: how long.
        also: see `fit_captioned`.
        checkpoint: see `fit`; another one than those of the stages before.
        num_pictures: to learn from.

    Returns:
        Seconds that the steps took.
    """
    stills = draw_stills(num_pictures, seed=seed, turned=turned)
    return _fit_stills(model, vae, tokenizer, stills, plan, seed, checkpoint, also)


def _fit_stills(
    model: TextToImage,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    stills: Stills,
    plan: Fit,
    seed: int,
    checkpoint: Path | None,
    also: Callable[[int], Tensor] | None = None,
) -> float:
    latents, token_ids = encode_stills(vae, stills.pixels), tokenize(tokenizer, stills.captions)
    return fit_captioned(model, latents, token_ids, tokenizer, plan, seed=seed, also=also, checkpoint=checkpoint)


def fit_captioned(
    model: TextToImage,
    latents: Tensor,
    token_ids: Tensor,
    tokenizer: CLIPTokenizer,
    plan: Fit,
    *,
    seed: int,
    batch_size: int = _BATCH_SIZE,
    also: Callable[[int], Tensor] | None = None,
    checkpoint: Path | None = None,
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
        plan: how long.
        seed: of the draws.
        batch_size: pictures a step.
        also: step -> another loss of the model, which is added.
        checkpoint: see `fit`.

    Returns:
        Seconds that the steps took.
    """
    alphas_cumprod = make_scheduler().alphas_cumprod
    weights = alphas_cumprod.rsqrt()
    empty = tokenize(tokenizer, [""])

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
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
        return error if also is None else error + also(step)

    return fit(model, loss, plan, checkpoint)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return (n m) padded token ids."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
    return encoded.input_ids


def draw_timesteps(rng: np.random.Generator, alphas_cumprod: Tensor, num: int) -> Tensor:
    """Draw timesteps (num) at which the noise's size is distributed log-normally."""
    sizes = (1 / alphas_cumprod - 1).sqrt().numpy()
    wanted = np.exp(rng.normal(_LOG_NOISE_MEAN, _LOG_NOISE_DEVIATION, num))
    return torch.from_numpy(np.searchsorted(sizes, wanted).clip(max=len(sizes) - 1))
