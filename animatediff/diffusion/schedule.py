"""The noise schedule that a motion module is trained with, and must be sampled with."""

import torch
from torch import Tensor

from animatediff.diffusion.noise_schedule import NoiseSchedule


def compute_alphas_cumprod(schedule: NoiseSchedule) -> Tensor:
    """Return the share of the signal's variance that is left at each timestep: (num_train_timesteps) float32, falling.

    With `zero_terminal_snr` the last one is 0.
    """
    steps, first, last = schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end
    if schedule.beta_schedule == "linear":
        betas = torch.linspace(first, last, steps)
    else:
        betas = torch.linspace(first**0.5, last**0.5, steps) ** 2
    alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    return _to_zero(alphas_cumprod) if schedule.zero_terminal_snr else alphas_cumprod


def _to_zero(alphas_cumprod: Tensor) -> Tensor:
    """Lin et al.'s algorithm 1: the roots shifted to end at 0, and stretched to begin where they did."""
    roots = alphas_cumprod.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return noisy latents, each clip at its own timestep.

    Args:
        latents: (b ...) clean, multiplied by the VAE's scaling factor.
        noise: the same shape, standard normal.
        timesteps: (b) integers.
        alphas_cumprod: of the schedule, on the latents' device.
    """
    kept = _for_clips(alphas_cumprod[timesteps], latents)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise


def noise_that_fades_latents(
    latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, *, fade_from: int
) -> Tensor:
    """Return noise with which `add_noise` fades the latents out towards the last timestep.

    Their amplitude falls from the schedule's at the timestep `fade_from`, evenly, to none after the last timestep;
    noise of the same distribution fills its place. Before `fade_from` it is `noise` as it is.

    Args:
        latents: (b ...) clean.
        noise: the same shape, standard normal.
        timesteps: (b) integers.
        alphas_cumprod: of the schedule, on the latents' device.
        fade_from: in [0, the number of timesteps).
    """
    # With a = alphas_cumprod[t], x the latents and e the noise, add_noise gives sqrt(a) x + sqrt(1 - a) e. Wanted is
    #     z = sqrt(s) x + sqrt(1 - s) e,    sqrt(s) = share * sqrt(a),    share = (T - t) / (T - fade_from), at most 1:
    # of variance 1 like it (s + 1 - s, where x has variance 1), but with an amplitude of x that is 0 at t = T. What the
    # model is to predict is the n with sqrt(a) x + sqrt(1 - a) n = z, from which the sampler's own formula finds x:
    #     n = (z - sqrt(a) x) / sqrt(1 - a).
    share = ((len(alphas_cumprod) - timesteps) / (len(alphas_cumprod) - fade_from)).clamp(max=1)
    s = _for_clips(share**2 * alphas_cumprod[timesteps], latents)
    a = _for_clips(alphas_cumprod[timesteps], latents)
    n = (s.sqrt() * latents + (1 - s).sqrt() * noise - a.sqrt() * latents) / (1 - a).sqrt()
    # Before `fade_from`, share is 1 and n is e but for its rounding: e itself keeps those timesteps bit for bit.
    return torch.where(_for_clips(timesteps < fade_from, latents), noise, n)


def velocity(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return what a v-predicting model predicts of `add_noise` with the same arguments.

    Salimans and Ho, arXiv 2202.00512.
    """
    kept = _for_clips(alphas_cumprod[timesteps], latents)
    return kept.sqrt() * noise - (1 - kept).sqrt() * latents


def _for_clips(values: Tensor, clips: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (clips.ndim - 1))
