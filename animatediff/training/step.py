"""One training step: predict the noise (or velocity) of clips, each at one random timestep."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.schedule import add_noise, fading_noise
from animatediff.training.objective import biased_timestep, min_snr_weights, target, with_shared_parts
from animatediff.training.settings import ObjectiveConfig


@dataclass(frozen=True)
class Draws:
    """All that is random about a batch."""

    noise: Tensor
    """(b c f h w) standard normal, independent from frame to frame unless the objective says otherwise."""
    timesteps: Tensor
    """(b) integers, one a clip."""
    dropped: list[bool]
    """Per clip, whether its caption is replaced by the empty one."""
    frames: list[int]
    """Per clip, one of its frames, for a recipe that trains on single ones; all equally likely."""


def draw(
    shape: tuple[int, ...],
    *,
    objective: ObjectiveConfig,
    seed: int,
    step: int,
    first_index: int,
    num_timesteps: int,
    caption_dropout: float,
) -> Draws:
    """Return the draws of a worker's share of a batch.

    Each clip has its own generator, seeded by the run's seed, the step and the clip's index in the global batch. So
    they are the same for any number of workers, and a resumed run needs no saved random state.

    Args:
        shape: (b c f h w) of the latents.
        objective: how noise and timesteps are distributed.
        seed: the run's.
        step: the global step.
        first_index: index of the first clip in the global batch.
        num_timesteps: timesteps of the noise schedule.
        caption_dropout: probability that a clip's caption is dropped.
    """
    generators = [_generator(seed, step, first_index + i) for i in range(shape[0])]
    noise = [torch.randn(shape[1:], generator=g) for g in generators]
    timesteps = [torch.randint(num_timesteps, (1,), generator=g) for g in generators]
    dropped = [torch.rand(1, generator=g).item() < caption_dropout for g in generators]
    # The options draw only now, so that without them every draw above is what it would be if they did not exist.
    if objective.timestep_power != 1:
        timesteps = [biased_timestep(num_timesteps, objective.timestep_power, g) for g in generators]
    noise = [with_shared_parts(own, objective, g) for own, g in zip(noise, generators, strict=True)]
    frames = [int(torch.randint(shape[2], (1,), generator=g)) for g in generators]
    return Draws(torch.stack(noise), torch.cat(timesteps), dropped, frames)


def of_clips(draws: Draws, chosen: Tensor) -> Draws:
    """Return the draws of some of a batch's clips, by their indices (k)."""
    indices = chosen.tolist()
    return Draws(
        draws.noise[chosen],
        draws.timesteps[chosen],
        [draws.dropped[i] for i in indices],
        [draws.frames[i] for i in indices],
    )


def single_frames(latents: Tensor, draws: Draws) -> tuple[Tensor, Draws]:
    """Return the frame of each clip that the draws chose, (b c 1 h w), with its own noise."""
    rows, frames = torch.arange(len(latents)), torch.tensor(draws.frames)
    noise = draws.noise[rows, :, frames, None]
    return latents[rows, :, frames, None], Draws(noise, draws.timesteps, draws.dropped, [0] * len(latents))


def _generator(seed: int, step: int, index: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, step, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a CPU tensor. Going to a GPU, from memory that the GPU reads by itself, so that nothing is waited for."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def clip_losses(
    predict: NoisePredictor,
    latents: Tensor,
    conditioning: Conditioning,
    draws: Draws,
    alphas_cumprod: Tensor,
    *,
    schedule: NoiseSchedule,
    objective: ObjectiveConfig,
) -> Tensor:
    """Each clip's mean squared error of the prediction, in float32, times the clip's weight.

    Args:
        predict: the model.
        latents: (b c f h w) float32, multiplied by the scaling factor, on the model's device.
        conditioning: of the clips; its dtype is the model's under autocast.
        draws: noise and timesteps; they are moved to the latents' device.
        alphas_cumprod: `alphas_cumprod` of the noise schedule, on the latents' device.
        schedule: says what the model predicts.
        objective: says what the clips weigh.

    Returns:
        (b) on the latents' device; the loss of a batch is their mean.
    """
    noise, timesteps = (to_device(t, latents.device) for t in (draws.noise, draws.timesteps))
    if objective.fade_from is not None:
        noise = fading_noise(latents, noise, timesteps, alphas_cumprod, first=objective.fade_from)
    with torch.autocast(latents.device.type, conditioning.dtype, enabled=conditioning.dtype != torch.float32):
        prediction = predict(add_noise(latents, noise, timesteps, alphas_cumprod), timesteps, conditioning)
    wanted = target(latents, noise, timesteps, alphas_cumprod, schedule.prediction_type)
    # One reduction a clip: one over the rows of a batch rounds differently for different numbers of clips.
    losses = torch.stack([F.mse_loss(p, w) for p, w in zip(prediction.float(), wanted, strict=True)])
    if objective.min_snr_gamma is None:
        return losses
    return losses * min_snr_weights(alphas_cumprod[timesteps], objective.min_snr_gamma, schedule.prediction_type)
