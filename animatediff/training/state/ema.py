"""Moving average of the weights that are trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of parameters, kept beside them in float32.

    Args:
        parameters: what is averaged; the average starts with their values.
        decay: weight of the average against the new values, in (0, 1).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = list(parameters), decay
        self.averages: list[Tensor] = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step number `step`, counted from 0, by the weight `1 - decay_at(step)`.

        A step that was skipped counts like one that changed nothing.
        """
        torch._foreach_lerp_(self.averages, list(self._parameters), 1 - self.decay_at(step))

    def decay_at(self, step: int) -> float:
        """Return the decay in effect, which rises from 0.1: with the full one the first weights would last for long."""
        return min(self._decay, (1 + step) / (10 + step))

    @contextmanager
    def averages_swapped_in(self) -> Iterator[None]:
        """Put the averages in the place of the parameters during the block."""
        kept = [p.detach().clone() for p in self._parameters]
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(kept)

    def load(self, averages: Sequence[Tensor]) -> None:
        """Continue from saved averages."""
        for average, saved in zip(self.averages, averages, strict=True):
            average.copy_(saved)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
