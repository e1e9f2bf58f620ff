"""From noise to latents: the denoising loop, with classifier-free guidance in one UNet call a step."""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import Tensor

NoisePredictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(b c f h w) noisy latents, a timestep, (b n d) text embeddings -> (b c f h w) prediction."""


@torch.no_grad()
def sample(
    unet: NoisePredictor,
    scheduler: DDIMScheduler,
    text_embeddings: Tensor,
    negative_embeddings: Tensor,
    noise: Tensor,
    *,
    num_inference_steps: int,
    guidance_scale: float,
) -> Tensor:
    """Denoise clips with deterministic DDIM (eta 0).

    Args:
        unet: predicts in the text embeddings' dtype.
        scheduler: made from the schedule that the motion module was trained with; its steps are set here.
        text_embeddings: (b n d), one a clip, on the UNet's device.
        negative_embeddings: (b n d), what the guidance leads away from.
        noise: (b c f h w), standard normal.
        num_inference_steps: steps from noise to latents, at most the schedule's timesteps.
        guidance_scale: how far to lead; at 1 and below the negative half is not computed.

    Returns:
        (b c f h w) float32 latents, multiplied by the VAE's scaling factor.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    is_guided = guidance_scale > 1
    text = torch.cat([negative_embeddings, text_embeddings]) if is_guided else text_embeddings
    # The latents stay in float32: half precision would round away part of each of the many small steps.
    latents = noise.float() * scheduler.init_noise_sigma
    # For some counts (61 of 1000) diffusers' trailing spacing appends a timestep of -1, which would undo the clip.
    for timestep in scheduler.timesteps[:num_inference_steps]:
        batch = torch.cat([latents, latents]) if is_guided else latents
        batch = scheduler.scale_model_input(batch, timestep)
        prediction = unet(batch.to(text.dtype), timestep, text).float()
        if is_guided:
            negative, positive = prediction.chunk(2)
            prediction = guide(negative, positive, guidance_scale)
        latents = scheduler.step(prediction, timestep, latents, eta=0.0).prev_sample
    return latents


def guide(negative: Tensor, positive: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance: from the negative prediction past the positive one; 1 is the positive one."""
    return negative + guidance_scale * (positive - negative)
