"""diffusers' GEGLU feed-forward that keeps less for the backward pass and needs less memory at a time.

With the same products it is diffusers' own bit for bit.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from animatediff.models.computing.token_linear import TokenLinear, linear

# Processors only. The wide middle of all tokens fits no cache, and glibc returns blocks above 32 MiB to the system,
# which then zeroes every page again: half the seconds. Fewer rows would slow the matrix products down.
_CPU_ROWS = 1024


class MemoryEfficientFeedForward(FeedForward):
    """A GEGLU feed-forward that keeps 8 c numbers a token for the backward pass, what it projects to.

    diffusers' keeps 16 c where the weights learn and 12 c where they are frozen: the activated gates and the products
    too, which are cheap to compute again.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, activation_fn="geglu")

    def forward(self, x: Tensor) -> Tensor:
        """Transform (... c), token by token."""
        net: Any = self.net
        layers = net[0].proj, net[2]
        if any(type(layer) not in (nn.Linear, TokenLinear) for layer in layers):  # a library's adapter is in its place
            return super().forward(x)
        product = linear if type(layers[0]) is TokenLinear else F.linear
        weights = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        tokens, *weights = _as_under_autocast(x.flatten(0, -2), *weights)
        return _Geglu.apply(torch.is_grad_enabled(), product, tokens, *weights).view(x.shape)


def use_memory_efficient_feed_forward(model: nn.Module) -> None:
    """Make every GEGLU feed-forward of `model` a lean one, with the parameters and hooks that it has."""
    for module in model.modules():
        if type(module) is FeedForward and isinstance(next(iter(module.net)), GEGLU):  # type: ignore[arg-type]
            module.__class__ = MemoryEfficientFeedForward


def _as_under_autocast(*tensors: Tensor) -> list[Tensor]:
    device = tensors[0].device.type
    is_cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # not on the meta device
    return [t.to(torch.get_autocast_dtype(device)) if is_cast else t for t in tensors]


class _Geglu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        is_recorded: bool,
        product: Callable[..., Tensor],
        x: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
    ) -> Tensor:
        out, kept = [], []
        for rows in _slices(x):
            projected = product(rows, w_in, b_in)
            value, gate = projected.chunk(2, dim=-1)
            out.append(product(F.gelu(gate).mul_(value), w_out, b_out))
            kept += [projected] if is_recorded and any(ctx.needs_input_grad) else []
        ctx.is_learning, ctx.product = any(ctx.needs_input_grad[3:]), product
        ctx.save_for_backward(x if ctx.is_learning else None, w_in, w_out, *kept)
        return _join(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w_in, w_out, *kept = ctx.saved_tensors
        product = ctx.product
        x_grads: list[Tensor] = []
        weight_grads: tuple[Tensor, ...] | None = None
        inputs = _slices(x) if ctx.is_learning else [None] * len(kept)
        for rows, projected, grad in zip(inputs, kept, _slices(out_grad), strict=True):
            projected_grad, hidden = _backward_of_gates(projected, product(grad, w_out.T))
            x_grads.append(product(projected_grad, w_in.T))
            if rows is not None:
                found = (
                    *(product(projected_grad.T, rows.T), projected_grad.sum(0)),
                    *(product(grad.T, hidden.T), grad.sum(0)),
                )
                weight_grads = _add(weight_grads, found)
        return None, None, _join(x_grads), *(weight_grads or (None,) * 4)


def _backward_of_gates(projected: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """From the gradient of the gated values, which it uses up: that of `projected`, and the gated values again."""
    value, gate = projected.chunk(2, dim=-1)
    activated = F.gelu(gate)
    gate_grad = torch.ops.aten.gelu_backward(grad * value, gate)
    return torch.cat([grad.mul_(activated), gate_grad], dim=-1), activated.mul_(value)


def _slices(x: Tensor) -> tuple[Tensor, ...]:
    if x.device.type != "cpu":
        return (x,)
    # Even ones, as a matrix product of a few last rows could round otherwise, and of multiples of 16 rows, which
    # `linear` can convolve.
    number = -(-len(x) // _CPU_ROWS)
    return x.tensor_split([len(x) * i // number // 16 * 16 for i in range(1, number)])


def _join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _add(totals: tuple[Tensor, ...] | None, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the sums so far and the next slice's parts, in float32 at least.

    Autograd rounds them to the weights' own.
    """
    if totals is None:
        return parts
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    return tuple(total.to(wide).add_(part) for total, part in zip(totals, parts, strict=True))
