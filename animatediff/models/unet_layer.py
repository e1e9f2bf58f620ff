"""A layer of a UNet's block, ResNet, spatial attention and motion module, and how training keeps less of it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from animatediff.models.config import ActivationCheckpointing
from animatediff.models.motion_module import MotionModule


class UNetLayer(NamedTuple):
    """What a block repeats."""

    resnet: ResnetBlock2D
    attention: nn.Module | None
    """None in blocks that do not read the text."""
    motion: MotionModule | None


def layers_of(block: Any, motion_modules: Sequence[Any]) -> Iterator[UNetLayer]:
    """Yield the layers of an encoder's or a decoder's block.

    Args:
        block: diffusers' block of a UNet.
        motion_modules: one a layer, or None.
    """
    attentions = getattr(block, "attentions", [None] * len(block.resnets))
    for layer in zip(block.resnets, attentions, motion_modules, strict=True):
        yield UNetLayer(*layer)


def run_layer(
    spatial: Callable[..., Tensor],
    temporal: Callable[[Tensor], Tensor],
    inputs: Sequence[Tensor],
    activation_checkpointing: ActivationCheckpointing,
) -> Tensor:
    """Return `temporal(spatial(*inputs))`, computed again in the backward pass where training is to keep less.

    Args:
        spatial: the layer's part that sees each frame by itself: ResNet and spatial attention.
        temporal: the motion module.
        inputs: of `spatial`.
        activation_checkpointing: which of the two are computed again.
    """
    # The frozen layers before the first motion module keep nothing: to compute them again would spare nothing.
    if activation_checkpointing == "all" and any(x.requires_grad for x in inputs):
        return _recomputed(lambda *inputs: temporal(spatial(*inputs)), *inputs)
    x = spatial(*inputs)
    return temporal(x) if activation_checkpointing == "none" else _recomputed(temporal, x)


def _recomputed(run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Return `run(*inputs)`, of which only the inputs are kept for the backward pass."""
    return checkpoint(run, *inputs, use_reentrant=False) if torch.is_grad_enabled() else run(*inputs)
