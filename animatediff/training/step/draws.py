"""All that is random about a training step: noise, timesteps, dropped captions, single frames and pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from animatediff.training.settings import ObjectiveConfig, PicturesConfig


@dataclass(frozen=True)
class Draws:
    """All that is random about a batch."""

    noise: Tensor
    """(b c f h w) standard normal, independent from frame to frame unless the objective says otherwise."""
    timesteps: Tensor
    """(b) integers, one a clip."""
    captions_dropped: list[bool]
    """Per clip, whether its caption is replaced by the empty one."""
    frame_indices: list[int]
    """Per clip, the index of one of its frames, for a recipe that trains on single ones; all equally likely."""
    picture_frames: list[list[int]]
    """Per clip, the frames that a recipe shows as pictures, in ascending order."""
    uniform: Tensor
    """(b) in [0, 1), for what a recipe draws beside."""


@dataclass(frozen=True)
class RandomSource:
    """Draws what is random about the batches of a run, each from its seed, its step and the clips' places alone.

    Each clip has its own generator, seeded by the run's seed, the step and the clip's index in the global batch. So
    the draws are the same for any number of workers, and a resumed run needs no saved random state.
    """

    seed: int
    """The run's."""
    num_timesteps: int
    """Timesteps of the noise schedule."""
    caption_dropout: float
    """Probability that a clip's caption is dropped."""
    objective: ObjectiveConfig
    """How noise and timesteps are distributed."""
    pictures: PicturesConfig
    """Which frames are shown as pictures."""

    def draw(self, shape: tuple[int, ...], *, step: int, first_index: int) -> Draws:
        """Return the draws of a worker's share of a batch.

        Args:
            shape: (b c f h w) of the latents.
            step: the global step.
            first_index: index of the first clip in the global batch.
        """
        generators = [_generator(self.seed, step, first_index + i) for i in range(shape[0])]
        noise = [torch.randn(shape[1:], generator=g) for g in generators]
        timesteps = [torch.randint(self.num_timesteps, (1,), generator=g) for g in generators]
        dropped = [torch.rand(1, generator=g).item() < self.caption_dropout for g in generators]
        # Optional draws come last, so that enabling none leaves every earlier draw unchanged.
        if self.objective.timestep_power != 1:
            timesteps = [biased_timestep(self.num_timesteps, self.objective.timestep_power, g) for g in generators]
        noise = [
            correlate_noise(independent, self.objective, g) for independent, g in zip(noise, generators, strict=True)
        ]
        frames = [int(torch.randint(shape[2], (1,), generator=g)) for g in generators]
        pictures = [choose_picture_frames(shape[2], self.pictures, g) for g in generators]
        uniform = [torch.rand(1, generator=g) for g in generators]
        return Draws(torch.stack(noise), torch.cat(timesteps), dropped, frames, pictures, torch.cat(uniform))


def select_clips(draws: Draws, chosen: Tensor) -> Draws:
    """Return the draws of some of a batch's clips, by their indices (k)."""
    indices = chosen.tolist()
    return Draws(
        draws.noise[chosen],
        draws.timesteps[chosen],
        [draws.captions_dropped[i] for i in indices],
        [draws.frame_indices[i] for i in indices],
        [draws.picture_frames[i] for i in indices],
        draws.uniform[chosen],
    )


def take_single_frames(latents: Tensor, draws: Draws) -> tuple[Tensor, Draws]:
    """Return the frame of each clip that the draws chose, (b c 1 h w), with its own noise."""
    rows, frames = torch.arange(len(latents)), torch.tensor(draws.frame_indices)
    noise = draws.noise[rows, :, frames, None]
    first = [0] * len(latents)
    single = Draws(noise, draws.timesteps, draws.captions_dropped, first, [[index] for index in first], draws.uniform)
    return latents[rows, :, frames, None], single


def _generator(seed: int, step: int, index: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, step, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def biased_timestep(num_timesteps: int, power: float, generator: torch.Generator) -> Tensor:
    """Return a timestep in [0, num_timesteps), distributed as `timestep_power` says: (1) int64."""
    u = torch.rand(1, dtype=torch.float64, generator=generator)
    # A high power rounds to 1 what is just below it.
    return (num_timesteps * u ** (1 / power)).long().clamp(max=num_timesteps - 1)


def correlate_noise(noise: Tensor, objective: ObjectiveConfig, generator: torch.Generator) -> Tensor:
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


def choose_picture_frames(num_frames: int, pictures: PicturesConfig, generator: torch.Generator) -> list[int]:
    """Return the frames of a clip that are shown as pictures, in ascending order.

    Args:
        num_frames: of the clip.
        pictures: the patterns' weights.
        generator: draws a pattern, and what is random about it.
    """
    half = max(1, num_frames // 2)
    # Each pattern's frames, by a number from 1 to half of the clip's and by an order of all frames.
    patterns: Mapping[str, Callable[[int, list[int]], list[int]]] = {
        "first": lambda number, order: [0],
        "first_and_last": lambda number, order: [0, num_frames - 1][:num_frames],
        "random": lambda number, order: sorted(order[:number]),
        "prediction": lambda number, order: list(range(number)),
    }
    weights = torch.tensor([getattr(pictures, name) for name in patterns], dtype=torch.float64)
    chosen = list(patterns.values())[int(torch.multinomial(weights, 1, generator=generator))]
    number = int(torch.randint(1, half + 1, (1,), generator=generator))
    return chosen(number, torch.randperm(num_frames, generator=generator).tolist())
