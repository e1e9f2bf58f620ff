"""The loss on clips that are never trained on, with noise, timesteps and pictures that are always the same."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch

from animatediff.data.loading.loader import ClipBatch, ClipLoader
from animatediff.data.loading.order import Batching
from animatediff.data.loading.selection import ClipFilter
from animatediff.data.manifest import read_manifest
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.models.computing.precision import has_native_bfloat16, training_dtype
from animatediff.training.recipes.table import recipe_of
from animatediff.training.settings import PicturesConfig, RecipeConfig
from animatediff.training.step.draws import RandomSource, select_clips
from animatediff.training.text import CaptionEncoder
from animatediff.training.trained_model import place_on_device
from animatediff.weights.base import load_text_encoders

_SEED = 7_000_000_000  # of noise that no training draws, as its seed is another
_QUARTERS = 4


class HeldOutLoss(NamedTuple):
    """The loss on held-out clips."""

    loss: float
    """Their mean; NaN where no clip's is finite."""
    left_out: list[str]
    """Ids of the clips whose loss is not finite."""


@torch.no_grad()
def validation_loss(config: RecipeConfig, weights_uri: str, *, device: torch.device, num_clips: int) -> HeldOutLoss:
    """Return the mean loss on held-out clips, each in the middle of every quarter of the timesteps.

    Args:
        config: the run's; its `train.holdout` says what is held out.
        weights_uri: weights file of the recipe's kind.
        device: where to compute.
        num_clips: most clips to measure on, always the same ones.

    Raises:
        UserError: nothing is held out, or a part cannot be read.
    """
    recipe = recipe_of(config)
    num_timesteps = recipe.noise_schedule.num_train_timesteps
    encoders = load_text_encoders(config.base)
    model = recipe.build(encoders, seed=0)
    recipe.load_weights(weights_uri, model)
    is_native_and_enough = recipe.bears_bfloat16 and has_native_bfloat16(device)
    dtype = training_dtype(config.compute.precision, device, is_native=is_native_and_enough)
    place_on_device(model, device, dtype)
    manifest = read_manifest(config.dataset_uri)
    encoder = CaptionEncoder.of_run(config, encoders, device, dtype)
    encode = encoder.with_empty_negative if recipe.loss_is_guided else encoder
    alphas_cumprod = compute_alphas_cumprod(recipe.noise_schedule).to(device)
    random = RandomSource(_SEED, num_timesteps, 0.0, config.objective, config.pictures or PicturesConfig())
    middles = (2 * torch.arange(_QUARTERS) + 1) * num_timesteps // (2 * _QUARTERS)
    loader = ClipLoader(
        config.dataset_uri,
        manifest,
        Batching(batch_size=1, seed=0),
        ClipFilter(where=config.where, holdout=config.train.holdout, held_out=True),
    )

    def loss(index: int, clip: ClipBatch) -> float:
        draws = random.draw(tuple(clip.latents.shape), step=0, first_index=index)
        repeated = torch.zeros(_QUARTERS, dtype=torch.long)
        four = replace(select_clips(draws, repeated), timesteps=middles)
        height, width = clip.latents.shape[-2:]
        crops = clip.source_crops * _QUARTERS
        conditioning = encode(clip.captions * _QUARTERS, height=height, width=width, source_crops=crops)
        return recipe.loss(model, clip.latents[repeated], conditioning, four, alphas_cumprod).mean().item()

    losses = {}
    for i in range(min(num_clips, loader.num_clips)):
        clip = loader.load(i)
        losses[clip.clip_ids[0]] = loss(i, clip)
    finite = [value for value in losses.values() if math.isfinite(value)]
    left_out = [clip_id for clip_id, value in losses.items() if not math.isfinite(value)]
    return HeldOutLoss(sum(finite) / len(finite) if finite else math.nan, left_out)
