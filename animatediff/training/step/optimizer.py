"""AdamW as the reference sets it, its learning rate over the steps, and the update that skips what is not finite."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from animatediff.training.settings import OptimConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over `parameters`, one fused kernel a step."""
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def learning_rate(config: OptimConfig, *, step: int, num_steps: int) -> float:
    """Return the rate of a step, counted from 0, of a run of `num_steps`."""
    rising = (step + 1) / max(1, config.warmup_steps)
    left = min(1.0, (num_steps - step) / max(1, config.decay_steps))
    falling = left if config.decay == "linear" else (1 - math.cos(math.pi * left)) / 2
    return config.lr * min(1.0, rising, falling)


def keep_loss_scale_above_one(scaler: torch.amp.GradScaler) -> None:
    """Keep a loss scale from falling below 1, at which no loss overflows for the scale's sake; waits for the device.

    A scaler halves its scale at every skipped step, also where a broken clip was to blame. It doubles it so rarely
    that some such clips in a dataset would take it to 0 in time, and the gradients with it.
    """
    if scaler.is_enabled() and scaler.get_scale() < 1:
        scaler.update(1.0)


class OptimizerStep(NamedTuple):
    """What an update did, as scalar tensors on the device: reading one waits for the device."""

    grad_norm: Tensor
    """Of all gradients together, before clipping."""
    is_finite: Tensor
    """Whether it is a number; if not, the update has been skipped."""


def optimizer_step(
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    parameters: list[nn.Parameter],
    *,
    max_grad_norm: float,
) -> OptimizerStep:
    """Clip the gradients, step unless they are not finite, and clear them.

    Whether to skip is decided on the device, without waiting for it. With several workers all decide alike, since
    their gradients have been averaged.

    Args:
        optimizer: fused, over `parameters`.
        scaler: the one that scaled the loss; it does nothing where float16 is not used.
        parameters: with gradients.
        max_grad_norm: length that the gradients are shortened to.
    """
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    is_finite = norm.isfinite()
    if not scaler.is_enabled():
        # What an enabled scaler tells fused optimizers too: 1 leaves weights, moments and step count as they are.
        optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return OptimizerStep(norm, is_finite)
