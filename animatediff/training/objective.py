"""What a training step minimises, and how the noise and timesteps it does so on are distributed."""

import torch
from pydantic import Field
from torch import Tensor

from animatediff.config import Config
from animatediff.diffusion.schedule import PredictionType, velocity


class ObjectiveConfig(Config):
    """Departures from the reference's objective; by default there are none.

    What the model predicts is the noise schedule's to say, since sampling must know it too.
    """

    min_snr_gamma: float | None = Field(None, gt=0)
    """Weighs clips by the signal-to-noise ratio of their timesteps, cut off at this value (Hang et al.,
    arXiv 2303.09556, who use 5). With `zero_terminal_snr` the last timestep weighs nothing, so that the model does
    not learn what sampling begins with."""
    noise_offset: float = Field(0.0, ge=0)
    """Standard deviation of a constant that is added to the noise of each clip and channel, for darker and brighter
    clips (Guttenberg's offset noise, 2023, at 0.1). The prediction target contains it."""
    shared_noise: float = Field(0.0, ge=0, lt=1)
    """Share of the noise's variance that all frames of a clip have in common, also their correlation: the mixed noise
    of Ge et al., arXiv 2305.10474, whose a^2 / (1 + a^2) it is. Sampling still begins with independent frames."""
    fade_from: int | None = Field(None, ge=0)
    """Timestep from which on the model is given less and less of the clip, until at the end it is given noise alone,
    and is to find the clip by its caption and by what it has learned. Sampling begins so, but training does not: even
    at the last timesteps of a schedule short of zero terminal SNR a clip's motion can be read from 16 noisy frames, so
    that in sampling the noise decides it, and not the caption or a LoRA (Lin et al., arXiv 2305.08891, on brightness);
    and a single frame tells its part, so that frames do not learn to agree. Default: none."""
    timestep_power: float = Field(1.0, gt=0)
    """Timesteps are floor(T u^(1 / power)) for u uniform in [0, 1), so that the share of them below k is
    (k / T)^power: 1 is uniform, above 1 favours noisy timesteps, below 1 clean ones."""


def biased_timestep(num_timesteps: int, power: float, generator: torch.Generator) -> Tensor:
    """A timestep in [0, num_timesteps), distributed as `timestep_power` says: (1) int64."""
    u = torch.rand(1, dtype=torch.float64, generator=generator)
    # A high power rounds to 1 what is just below it.
    return (num_timesteps * u ** (1 / power)).long().clamp(max=num_timesteps - 1)


def with_shared_parts(noise: Tensor, objective: ObjectiveConfig, generator: torch.Generator) -> Tensor:
    """A clip's noise with what its frames, or all places of a channel, have in common.

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
    latents: Tensor, noise: Tensor, timesteps: Tensor, signal: Tensor, prediction_type: PredictionType
) -> Tensor:
    """What the model should predict of noisy latents, in their shape; the other arguments are those of `add_noise`."""
    return noise if prediction_type == "epsilon" else velocity(latents, noise, timesteps, signal)


def min_snr_weights(signal: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """The weight min(SNR, gamma) of the clean latents' error, put as one of what the model predicts.

    Args:
        signal: (b) the share of the signal's variance at each clip's timestep, in [0, 1).
        gamma: the highest weight of an error of the clean latents.
        prediction_type: what the model predicts.

    Returns:
        (b) min(SNR, gamma) / SNR for the noise, min(SNR, gamma) / (SNR + 1) for the velocity.
    """
    snr = signal / (1 - signal)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    return snr.clamp(max=gamma) / (snr + 1)


def quartile_sums(losses: Tensor, timesteps: Tensor, num_timesteps: int) -> Tensor:
    """Sums to log the loss by quarters of the timesteps, from the clean to the noisy end, without gradients.

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
