"""AdamW as the reference sets it, and its learning rate over the steps."""

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from animatediff.config import Config


class OptimConfig(Config):
    """The reference's optimizer, whose learning rate is constant."""

    lr: float = Field(1e-4, gt=0)
    """Learning rate."""
    warmup_steps: int = Field(0, ge=0)
    """First steps, over which the rate rises evenly to `lr`."""
    decay_steps: int = Field(0, ge=0)
    """Last steps, over which it falls evenly to nothing. Raise `train.num_steps` before they begin, if at all."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the gradient's running mean and of its square's."""
    eps: float = Field(1e-8, gt=0)
    """Keeps the update finite where gradients vanish."""
    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The gradient of all motion parameters together is shortened to this length."""


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over `parameters`, one fused kernel a step."""
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def learning_rate(config: OptimConfig, *, step: int, num_steps: int) -> float:
    """The rate of a step, counted from 0, of a run of `num_steps`."""
    rising = (step + 1) / max(1, config.warmup_steps)
    falling = (num_steps - step) / max(1, config.decay_steps)
    return config.lr * min(1.0, rising, falling)
