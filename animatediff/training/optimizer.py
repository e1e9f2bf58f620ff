"""AdamW as the reference sets it."""

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from animatediff.config import Config


class OptimConfig(Config):
    """The reference's optimizer; its learning rate is constant."""

    lr: float = Field(1e-4, gt=0)
    """Learning rate."""
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
