"""What a training step minimises, and how the noise and timesteps it does so on are distributed."""

import torch
from torch import Tensor

from animatediff.diffusion.noise_schedule import PredictionType
from animatediff.diffusion.schedule import velocity
from animatediff.training.settings import ObjectiveConfig


def biased_timestep(num_timesteps: int, power: float, generator: torch.Generator) -> Tensor:
    """Return a timestep in [0, num_timesteps), distributed as `timestep_power` says: (1) int64."""
    u = torch.rand(1, dtype=torch.float64, generator=generator)
    # A high power rounds to 1 what is just below it.
    return (num_timesteps * u ** (1 / power)).long().clamp(max=num_timesteps - 1)


def with_shared_parts(noise: Tensor, objective: ObjectiveConfig, generator: torch.Generator) -> Tensor:
    """Return a clip's noise with what its frames, or all places of a channel, have in common.

    Args:
        noise: (c f h w) standard normal, independent.
        objective: says how much is in common.
        generator: draws it, if there is any.
    """
    c, _, h, w = noise.shape
    if objective.shared_noise > 0:
        common = torch.randn(c, 1, h, w, generator=generator)
        noise = objective.shared_noise**0.5 * common + (1 - objective.shared_noise) ** 0.5 * noise
    if objective.noise_offset > 0:
        noise = noise + objective.noise_offset * torch.randn(c, 1, 1, 1, generator=generator)
    return noise


def target(
    latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: PredictionType
) -> Tensor:
    """Return what the model should predict of noisy latents, in their shape.

    The other arguments are those of `add_noise`.
    """
    return noise if prediction_type == "epsilon" else velocity(latents, noise, timesteps, alphas_cumprod)


def min_snr_weights(alphas_cumprod: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Return the weight min(SNR, gamma) of the clean latents' error, put as one of what the model predicts.

    Args:
        alphas_cumprod: (b) the share of the signal's variance at each clip's timestep, in [0, 1).
        gamma: the highest weight of an error of the clean latents.
        prediction_type: what the model predicts.

    Returns:
        (b) min(SNR, gamma) / SNR for the noise, min(SNR, gamma) / (SNR + 1) for the velocity.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    return snr.clamp(max=gamma) / (snr + 1)


def quartile_sums(losses: Tensor, timesteps: Tensor, num_timesteps: int) -> Tensor:
    """Return the sums to log the loss by quarters of the timesteps, from the clean to the noisy end, without gradients.

    They add up over workers and steps.

    Args:
        losses: (b) of the clips; those that are not finite are left out.
        timesteps: (b) integers; they are moved to the losses' device.
        num_timesteps: timesteps of the noise schedule.

    Returns:
        (2 4) in the losses' dtype: the sum of the losses, and the number of clips, of each quarter.
    """
    quarters = timesteps.to(losses.device) * 4 // num_timesteps
    is_in = (quarters[:, None] == torch.arange(4, device=losses.device)) & losses.isfinite()[:, None]
    # Not a product: a loss that is not finite would spoil all quarters.
    sums = torch.where(is_in, losses.detach()[:, None], 0.0).sum(dim=0)
    return torch.stack([sums, is_in.sum(dim=0).to(losses.dtype)])
