"""Low-rank adapters to be trained beside frozen linear layers: the domain adapter's and MotionLoRA's.

Parameter names are the official files' own (`....attn1.processor.to_q_lora.down.weight`, ...), so a state dict is a
file. The files have no alpha, so the strength is 1.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from animatediff.models.motion_module import TemporalAttention
from animatediff.models.motion_unet import MotionModules

Layer = tuple[nn.Linear, Sequence[str]]
"""A linear layer, and the paths of the matrices that are its equal row blocks: mostly one."""


class LoraLayer(nn.Module):
    """The change `up @ down` of one matrix.

    `up` begins as zero, `down` as in peft, kohya's scripts and the first LoRA: drawn from torch's global generator,
    uniform within 1 / sqrt(i) of zero. Both are float32, (o r) and (r i).

    Args:
        in_features: i.
        out_features: o.
        rank: r.
        device: where they are made.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, device: torch.device) -> None:
        super().__init__()
        # nn.Linear draws its weight in just that way.
        self.down = nn.Linear(in_features, rank, bias=False, device=device, dtype=torch.float32)
        self.up = nn.Linear(rank, out_features, bias=False, device=device, dtype=torch.float32)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the change adds to the layer's output, (... i) to (... o), in the precision of `x`."""
        # The factors are cast, not the features: they are the smaller ones by far.
        return F.linear(F.linear(x, self.down.weight.to(x.dtype)), self.up.weight.to(x.dtype))


class LowRankAdapters(nn.Module):
    """One low-rank change for each of a host's attention matrices, added by hooks on the host's linear layers.

    The host keeps its classes, state dict and `requires_grad`: freeze it. To be trained in a
    `DistributedDataParallel`, the adapters must be a submodule of what that wraps.

    Args:
        part: what the host is, by the name that `weights` has for it.
        rank: of every change, at least 1.
        layers: the host's layers.

    Raises:
        ValueError: the rank is below 1, or there are no layers.
    """

    def __init__(self, part: Literal["motion", "unet"], rank: int, layers: Iterable[Layer]) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"adapters of rank {rank}: it must be at least 1")
        self.part = part
        self.rank = rank
        self._handles: list[RemovableHandle] = []
        for linear, paths in layers:
            features = linear.in_features, linear.out_features // len(paths)
            changes = [LoraLayer(*features, rank, linear.weight.device) for _ in paths]
            for path, change in zip(paths, changes, strict=True):
                _put(self, adapter_name(path), change)
            # A partial, unlike a closure, is copied with what it holds: the copy of a model has its own adapters.
            self._handles.append(linear.register_forward_hook(partial(_add, changes)))
        if not self._handles:
            raise ValueError("the model has no attention to put adapters on")

    @classmethod
    def for_motion(cls, motion: MotionModules, rank: int) -> "LowRankAdapters":
        """Return a fresh MotionLoRA (paper, section 4.3): on the temporal self-attentions.

        The published ones have rank 64.
        """
        layers: list[Layer] = []
        for name, module in motion.named_modules():
            if isinstance(module, TemporalAttention):
                to_out: Any = module.to_out[0]
                layers += [(module.to_qkv, [f"{name}.to_{n}" for n in "qkv"]), (to_out, [f"{name}.to_out.0"])]
        return cls("motion", rank, layers)

    @classmethod
    def for_base(cls, unet: UNet2DConditionModel, rank: int) -> "LowRankAdapters":
        """Return a fresh domain adapter (paper, section 4.1): on the base's attentions.

        The published one has rank 128.
        """
        attentions = [(name, module) for name, module in unet.named_modules() if isinstance(module, Attention)]
        names = ("to_q", "to_k", "to_v", "to_out.0")
        return cls("unet", rank, [(a.get_submodule(n), [f"{path}.{n}"]) for path, a in attentions for n in names])

    def detach(self) -> None:
        """Take the adapters off the host for good, which then works as before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def adapter_name(path: str) -> str:
    """Return what the official files call the change of the matrix at `path`.

    `x.to_out.0` is `x.processor.to_out_lora`.
    """
    parent, _, matrix = path.removesuffix(".0").rpartition(".")
    return f"{parent}.processor.{matrix}_lora"


def _add(changes: Sequence[LoraLayer], _layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
    # Under autocast the input may be wider than the output, which tells the precision of the layer's product.
    x = inputs[0].to(out.dtype)
    added = [change(x) for change in changes]
    return out + (torch.cat(added, dim=-1) if len(added) > 1 else added[0])


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)
