"""The arithmetic of a training step, counted on shapes alone: what a dry run reckons time from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.models.operations import count_operations
from animatediff.training.frozen_base import unet_on_meta
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.settings import PicturesConfig
from animatediff.training.step.draws import RandomSource

_NUM_TIME_IDS = 6


def clip_operations(recipe: Recipe, latent_shape: tuple[int, int, int, int], num_tokens: int) -> int:
    """Return the floating-point operations of a clip's forward and backward pass, and of what is computed again for it.

    Args:
        recipe: what is trained, on which base.
        latent_shape: (f c h w) of the clip.
        num_tokens: of its caption's embedding.

    Raises:
        UserError: a part is missing or they do not fit.
    """
    config, unet = recipe.config, unet_on_meta(recipe.config.base)
    model = recipe.attach(unet, with_weights=False)
    model.checkpoint_activations(config.compute.activation_checkpointing)
    f, c, h, w = latent_shape
    latents = torch.zeros(1, c, f, h, w, device="meta")
    num_timesteps = recipe.noise_schedule.num_train_timesteps
    random = RandomSource(0, num_timesteps, 0.0, config.objective, config.pictures or PicturesConfig())
    draws = random.draw(tuple(latents.shape), step=0, first_index=0)
    conditioning, alphas_cumprod = _conditioning(unet.config, num_tokens), torch.zeros(num_timesteps, device="meta")
    if recipe.loss_is_guided:
        conditioning = replace(conditioning, negative=conditioning)
    return count_operations(lambda: recipe.loss(model, latents, conditioning, draws, alphas_cumprod).sum().backward())


def _conditioning(unet_config: Mapping[str, Any], num_tokens: int) -> Conditioning:
    """Return a conditioning of one clip, on the meta device."""
    text = torch.zeros(1, num_tokens, unet_config["cross_attention_dim"], device="meta")
    if unet_config["addition_embed_type"] is None:
        return Conditioning(text)
    sizes_width = _NUM_TIME_IDS * unet_config["addition_time_embed_dim"]
    pooled = torch.zeros(1, unet_config["projection_class_embeddings_input_dim"] - sizes_width, device="meta")
    return Conditioning(text, pooled, torch.zeros(1, _NUM_TIME_IDS, device="meta"))
