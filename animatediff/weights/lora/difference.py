"""The difference of two motion modules as a MotionLoRA: what training changed, in a smaller file."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from animatediff.models.motion_unet import MotionModules
from animatediff.weights.reading.tensors import save_tensors


def write_difference(
    uri: str,
    trained: MotionModules,
    given: MotionModules,
    *,
    rank: int,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a MotionLoRA that makes one motion module of another.

    Matrices become the product of the given rank that is closest to their difference, where it is smaller than the
    difference itself; all else is kept as it is.

    Args:
        uri: a `.safetensors` file, written atomically.
        trained: what the LoRA leads to.
        given: what it is added to, of the same shape.
        rank: of the products.
        dtype: of the file.
        metadata: for the file's header.

    Raises:
        UserError: it cannot be written.
    """
    before = given.state_dict()
    tensors = {
        key: tensor.to(dtype).contiguous()
        for name, after in trained.state_dict().items()
        for key, tensor in _changes(name, after - before[name], rank)
    }
    save_tensors(uri, tensors, dict(metadata or {}))


def _changes(name: str, difference: Tensor, rank: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the change of a weight or bias, with LyCORIS' and kohya's names for it."""
    module, _, kind = name.rpartition(".")
    if kind != "weight":
        yield f"{module}.diff_b", difference
    elif difference.ndim < 2 or rank * sum(difference.shape) >= difference.numel():
        yield f"{module}.diff", difference
    else:
        # The singular values are shared out evenly, so that neither factor loses more than the other in half precision.
        u, s, vh = torch.linalg.svd(difference.float(), full_matrices=False)
        root = s[:rank].sqrt()
        yield f"{module}.lora_up.weight", u[:, :rank] * root
        yield f"{module}.lora_down.weight", root[:, None] * vh[:rank]
