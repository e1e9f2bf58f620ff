"""One training step of the reference's recipe: predict the noise of clips, each at one random timestep."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from animatediff.diffusion.schedule import add_noise

NoisePredictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(b c f h w) noisy latents, (b) timesteps, (b n d) text embeddings -> (b c f h w)."""


@dataclass(frozen=True)
class Draws:
    """All that is random about a batch."""

    noise: Tensor
    """(b c f h w) standard normal, independent from frame to frame."""
    timesteps: Tensor
    """(b) integers, one a clip."""
    dropped: list[bool]
    """Per clip, whether its caption is replaced by the empty one."""


def draw(
    shape: tuple[int, ...], *, seed: int, step: int, first_index: int, num_timesteps: int, caption_dropout: float
) -> Draws:
    """The draws of a worker's share of a batch.

    Each clip has its own generator, seeded by the run's seed, the step and the clip's index in the global batch. So
    they are the same for any number of workers, and a resumed run needs no saved random state.

    Args:
        shape: (b c f h w) of the latents.
        seed: the run's.
        step: the global step.
        first_index: index of the first clip in the global batch.
        num_timesteps: timesteps of the noise schedule.
        caption_dropout: probability that a clip's caption is dropped.
    """
    generators = [_generator(seed, step, first_index + i) for i in range(shape[0])]
    return Draws(
        noise=torch.stack([torch.randn(shape[1:], generator=g) for g in generators]),
        timesteps=torch.cat([torch.randint(num_timesteps, (1,), generator=g) for g in generators]),
        dropped=[torch.rand(1, generator=g).item() < caption_dropout for g in generators],
    )


def _generator(seed: int, step: int, index: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, step, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def noise_loss(predict: NoisePredictor, latents: Tensor, text: Tensor, draws: Draws, signal: Tensor) -> Tensor:
    """Mean squared error of the predicted noise, in float32, over all elements.

    Args:
        predict: the model.
        latents: (b c f h w) float32, multiplied by the scaling factor, on the model's device.
        text: (b n d) text embeddings, one a clip.
        draws: noise and timesteps; they are moved to the latents' device.
        signal: `alphas_cumprod` of the noise schedule, on the latents' device.
    """
    noise, timesteps = draws.noise.to(latents.device), draws.timesteps.to(latents.device)
    with torch.autocast(latents.device.type, text.dtype, enabled=text.dtype != torch.float32):
        prediction = predict(add_noise(latents, noise, timesteps, signal), timesteps, text)
    return F.mse_loss(prediction.float(), noise)


def update(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], *, max_grad_norm: float) -> Tensor:
    """Clip the gradients, step, and clear them.

    Returns:
        The gradients' norm before clipping.
    """
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
