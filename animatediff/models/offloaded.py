"""Frozen modules that lie in the machine's memory and are on the device only while they are needed."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class OffloadedModules:
    """Modules whose weights visit the device. They never change, so that nothing is copied back.

    Args:
        modules: frozen, on the CPU, in the precision that they are used in.
        device: where they are used.
    """

    def __init__(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self._device = device
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        # From pinned memory a GPU reads by itself, several times as fast.
        self._homes = [(t, t.data.pin_memory() if device.type == "cuda" else t.data) for t in tensors]
        self._are_here = False

    def bring(self) -> None:
        """Put the weights on the device, unless they are there."""
        if not self._are_here:
            self._place(lambda home: home.to(self._device, non_blocking=True))
            self._are_here = True

    def put_away(self) -> None:
        """Free the device of them."""
        if self._are_here:
            self._place(lambda home: home)
            self._are_here = False

    def _place(self, where: Callable[[Tensor], Tensor]) -> None:
        for tensor, home in self._homes:
            tensor.data = where(home)
