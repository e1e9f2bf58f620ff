"""The loss on clips that are never trained on, with noise and timesteps that are always the same."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch

from animatediff.data.loading.loader import ClipBatch, ClipLoader
from animatediff.data.manifest import read_manifest
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.training.model import build, place
from animatediff.training.recipe import Recipe
from animatediff.training.schedules import with_schedule
from animatediff.training.state import load_result
from animatediff.training.step import clip_losses, draw, of_clips, single_frames
from animatediff.training.text import CaptionEncoder
from animatediff.weights.base import load_text_encoders
from animatediff.weights.base_facts import BaseFacts

_SEED = 7_000_000_000  # of noise that no training draws, as its seed is another
_QUARTERS = 4


class HeldOutLoss(NamedTuple):
    """What was measured on held-out clips."""

    loss: float
    """Their mean; NaN where no clip's is finite."""
    left_out: list[str]
    """Ids of the clips whose loss is not finite."""


@torch.no_grad()
def validation_loss(recipe: Recipe, weights_uri: str, *, device: torch.device, num_clips: int) -> HeldOutLoss:
    """Mean loss on held-out clips, each in the middle of every quarter of the timesteps.

    Args:
        recipe: the run's; its `train.holdout` says what is held out.
        weights_uri: weights file of the run's kind.
        device: where to compute.
        num_clips: most clips to measure on, always the same ones.

    Raises:
        UserError: nothing is held out, or a part cannot be read.
    """
    recipe = with_schedule(recipe)
    encoders = load_text_encoders(recipe.base)
    model = build(recipe, encoders, seed=0)
    load_result(weights_uri, model)
    dtype = place(model, device, recipe.compute.precision)
    encode = CaptionEncoder(BaseFacts(recipe.base), encoders, device, dtype)
    alphas_cumprod = compute_alphas_cumprod(recipe.noise_schedule).to(device)
    loader = ClipLoader(
        recipe.dataset_uri,
        read_manifest(recipe.dataset_uri),
        batch_size=1,
        seed=0,
        where=recipe.where,
        holdout=recipe.train.holdout,
        held_out=True,
    )

    def loss(index: int, batch: ClipBatch) -> float:
        num_timesteps = recipe.noise_schedule.num_train_timesteps
        draws = draw(
            tuple(batch.latents.shape),
            objective=recipe.objective,
            seed=_SEED,
            step=0,
            first_index=index,
            num_timesteps=num_timesteps,
            caption_dropout=0.0,
        )
        latents = batch.latents
        if model.takes_single_frames:
            latents, draws = single_frames(latents, draws)
        middles = (2 * torch.arange(_QUARTERS) + 1) * num_timesteps // (2 * _QUARTERS)
        four = replace(of_clips(draws, torch.zeros(_QUARTERS, dtype=torch.long)), timesteps=middles)
        latents = latents.expand(_QUARTERS, *latents.shape[1:]).to(device)
        height, width = latents.shape[-2:]
        conditioning = encode(batch.captions * _QUARTERS, height=height, width=width)
        schedule, objective = recipe.noise_schedule, recipe.objective
        return (
            clip_losses(model, latents, conditioning, four, alphas_cumprod, schedule=schedule, objective=objective)
            .mean()
            .item()
        )

    losses = {}
    for i in range(min(num_clips, loader.num_clips)):
        batch = loader.load(i)
        losses[batch.clip_ids[0]] = loss(i, batch)
    finite = [value for value in losses.values() if math.isfinite(value)]
    left_out = [clip_id for clip_id, value in losses.items() if not math.isfinite(value)]
    return HeldOutLoss(sum(finite) / len(finite) if finite else math.nan, left_out)
