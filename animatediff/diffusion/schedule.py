"""The noise schedule that a motion module is trained with, and must be sampled with."""

from typing import Literal

import torch
from diffusers import DDIMScheduler
from pydantic import Field
from torch import Tensor

from animatediff.config import Config


class NoiseSchedule(Config):
    """Amounts of noise over the timesteps.

    The defaults are the reference's training config. Its betas are linear where Stable Diffusion's are
    scaled_linear: the paper chose them against flicker, and sampling with the other kind greys the picture out.
    """

    num_train_timesteps: int = Field(1000, ge=2)
    """Timesteps of the diffusion."""
    beta_start: float = Field(0.00085, gt=0, lt=1)
    """Noise variance added at the first timestep."""
    beta_end: float = Field(0.012, gt=0, lt=1)
    """The same at the last one."""
    beta_schedule: Literal["linear", "scaled_linear"] = "linear"
    """What rises evenly between them: the betas (linear) or their square roots (scaled_linear)."""
    prediction_type: Literal["epsilon"] = "epsilon"
    """What the model predicts: the noise."""


def alphas_cumprod(schedule: NoiseSchedule) -> Tensor:
    """The share of the signal's variance that is left at each timestep: (num_train_timesteps) float32, falling."""
    steps, first, last = schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end
    if schedule.beta_schedule == "linear":
        betas = torch.linspace(first, last, steps)
    else:
        betas = torch.linspace(first**0.5, last**0.5, steps) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, signal: Tensor) -> Tensor:
    """Noisy latents, each clip at its own timestep.

    Args:
        latents: (b ...) clean, multiplied by the VAE's scaling factor.
        noise: the same shape, standard normal.
        timesteps: (b) integers.
        signal: `alphas_cumprod` of the schedule, on the latents' device.
    """
    kept = signal[timesteps].reshape(-1, *[1] * (latents.ndim - 1))
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def ddim_scheduler(schedule: NoiseSchedule) -> DDIMScheduler:
    """The DDIM sampler of this schedule.

    `steps_offset` and `clip_sample` are the reference's; its configs leave `set_alpha_to_one` at diffusers' default.
    """
    return DDIMScheduler(
        num_train_timesteps=schedule.num_train_timesteps,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=schedule.beta_schedule,
        prediction_type=schedule.prediction_type,
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=True,
    )
