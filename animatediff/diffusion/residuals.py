"""What networks beside the UNet add to its features."""

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Residuals(NamedTuple):
    """What a network adds to the UNet's features."""

    down: list[Tensor]
    """To each skip, in their order: ((b f) c h w)."""
    mid: Tensor
    """To the middle block's output: ((b f) c h w)."""

    def __mul__(self, factors: Any) -> "Residuals":
        """Multiply by factors, one a residual, the middle one's last: numbers, or tensors ((b f) 1 1 1).

        Without gradients it is done in the residuals' own memory, which is 13 MB a frame of 512 x 512 in half
        precision.
        """
        *down, mid = factors
        multiply = operator.mul if torch.is_grad_enabled() else operator.imul
        return Residuals(list(map(multiply, self.down, down)), multiply(self.mid, mid))

    def __add__(self, other: Any) -> "Residuals":
        """Add another network's, likewise."""
        return Residuals(list(map(_added, self.down, other.down)), _added(self.mid, other.mid))


def _added(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum, without gradients in the memory of the larger one: pooled residuals have one value a channel."""
    if torch.is_grad_enabled():
        return one + other
    larger, smaller = (one, other) if one.numel() >= other.numel() else (other, one)
    return larger.add_(smaller)
