"""What a file holds of a model's part, under the part's own names and shapes: what is missing or too much is named."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Size, Tensor

from animatediff.errors import UserError
from animatediff.weights.layouts import ldm


class PartTensors(NamedTuple):
    """What a file holds of a part, and where in it each of the part's parameters is."""

    tensors: Mapping[str, Tensor]
    sources: Mapping[str, ldm.Source]


def take_part(found: PartTensors, wanted: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Return the part under its own names and shapes, in the file's precision.

    Args:
        found: of the file.
        wanted: the part's parameters, of which names and shapes count.
        what: what the part of the file is called in messages.

    Raises:
        UserError: it lacks one, has one too many, or one of another shape or of whole numbers.
    """
    fitted = {name: _read(found, name, like.shape, what) for name, like in wanted.items()}
    known = {source.name for source in found.sources.values()}
    for name in found.tensors:
        if name not in known and not name.endswith(ldm.CONSTANTS):
            raise UserError(f"{what} has {name}, which the base has not: it was not made from this architecture")
    return fitted


def _read(found: PartTensors, name: str, shape: Size, what: str) -> Tensor:
    source = found.sources[name]
    if source.name not in found.tensors:
        alias = "" if source.name == name else f" ({source.name})"
        raise UserError(f"{what} lacks {name}{alias}: it was not made from this base's architecture")
    tensor = source.read(found.tensors[source.name])
    if not tensor.is_floating_point():
        raise UserError(f"{what} has {name} as {tensor.dtype}: quantised weights are not read, take the float file")
    if tensor.shape[:2] == shape[:2] and tensor.numel() == shape.numel():
        tensor = tensor.reshape(shape)  # a linear layer and a 1x1 convolution are the same matrix
    if tensor.shape != shape:
        raise UserError(f"{what} does not fit the base: {name} is {list(tensor.shape)}, not {list(shape)}")
    return tensor
