"""The levels of noise that a teacher's DDIM goes through, its steps, and what a consistency model guesses from them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from animatediff.diffusion.noise_schedule import PredictionType

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
"""Of LCM's boundary condition (Luo et al., arXiv 2310.04378); diffusers' `LCMScheduler` has them as defaults."""


@dataclass(frozen=True)
class Levels:
    """Levels of noise 0 (none) to K (the last timestep), evenly apart, as the spacing `trailing` has them."""

    alphas_cumprod: Tensor
    """(T) of the noise schedule."""
    number: int
    """K, in [1, T]."""

    def timesteps(self, levels: Tensor) -> Tensor:
        """Return the timesteps of levels, (b) int64; of level 0, where nothing is predicted, it is 0."""
        # As diffusers' schedulers round, to even numbers.
        spread = (levels.double() * len(self.alphas_cumprod) / self.number).round().long()
        return (spread - 1).clamp(min=0)

    def alphas(self, levels: Tensor) -> Tensor:
        """Return the share of the signal's variance that is left at levels, (b) float32: all of it at level 0."""
        return torch.where(levels == 0, 1.0, self.alphas_cumprod[self.timesteps(levels)])

    def of_timesteps(self, timesteps: Tensor) -> Tensor:
        """Return the level of 1 to K next to each timestep, above it: (b) int64, equally many timesteps a level."""
        return timesteps * self.number // len(self.alphas_cumprod) + 1


def clean_and_noise(
    sample: Tensor, prediction: Tensor, alphas: Tensor, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    """Return the clean latents and the noise that a prediction says are in noisy latents.

    Args:
        sample: (b ...) noisy latents.
        prediction: the same shape.
        alphas: (b) the share of the signal's variance in each clip, above 0 unless the velocity is predicted.
        prediction_type: what is predicted.
    """
    signal, rest = (for_clips(value, sample) for value in (alphas.sqrt(), (1 - alphas).sqrt()))
    if prediction_type == "v_prediction":
        return signal * sample - rest * prediction, signal * prediction + rest * sample
    return (sample - rest * prediction) / signal, prediction


def ddim_step(clean: Tensor, noise: Tensor, alphas: Tensor) -> Tensor:
    """Return latents with as much noise as at another level: where DDIM goes from clean latents and noise (b ...).

    Args:
        clean: the guess of the clean latents.
        noise: the guess of their noise.
        alphas: (b) the share of the signal's variance there.
    """
    return for_clips(alphas.sqrt(), clean) * clean + for_clips((1 - alphas).sqrt(), clean) * noise


def lcm_guess(sample: Tensor, clean: Tensor, timesteps: Tensor) -> Tensor:
    """Return LCM's guess of the clean latents, which at timestep 0 is the sample itself.

    Args:
        sample: (b ...) noisy latents.
        clean: what the model takes for the clean ones.
        timesteps: (b).
    """
    scaled = TIMESTEP_SCALING * timesteps.float()
    skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    out = scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
    return for_clips(skip, sample) * sample + for_clips(out, sample) * clean


def for_clips(values: Tensor, clips: Tensor) -> Tensor:
    """Return one value a clip, (b), in a shape that multiplies clips (b ...)."""
    return values.reshape(-1, *[1] * (clips.ndim - 1))
