"""DoRA, weight-decomposed low-rank changes (Liu et al., arXiv 2402.09353): a direction, and lengths."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from animatediff.weights.lora.deltas import AdditiveDelta, WeightDelta

LENGTHS = {"dora_scale", "lora_magnitude_vector"}
"""Names of DoRA's lengths: LyCORIS' and kohya's, and peft's."""
_SHORTEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class DoraDelta(WeightDelta):
    """A change of direction, by another delta, and of length.

    The sum of weight and change is brought to learned lengths: each row of it, what one output reads, or, as earlier
    versions of LyCORIS have it, each column.
    """

    change: AdditiveDelta
    """Of the direction."""
    magnitude: Tensor
    """The lengths, as many as outputs or as inputs."""
    weight_shape: tuple[int, ...]
    """(o, i) or (o, i, kh, kw)."""
    per_input: bool
    """Whether they are the columns'."""

    def __post_init__(self) -> None:
        if len(self.weight_shape) < 2 or self.magnitude.numel() != self.weight_shape[int(self.per_input)]:
            raise ValueError(f"its lengths are {list(self.magnitude.shape)}, its weight is {list(self.weight_shape)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the change of the direction."""
        return self.change.shape

    def change_of(self, weight: Tensor) -> Tensor:
        """`magnitude * (weight + change) / |weight + change| - weight`."""
        own = weight.reshape(self.weight_shape)
        turned = own + self.change.to_dense().reshape(self.weight_shape)
        axis = int(self.per_input)
        lengths = torch.linalg.vector_norm(turned, dim=[dim for dim in range(turned.ndim) if dim != axis], keepdim=True)
        wanted = self.magnitude.float().reshape(lengths.shape)
        # What has no length has no direction either: it stays nothing.
        return (turned * (wanted / lengths.clamp(min=_SHORTEST)) - own).reshape(weight.shape)


def with_lengths(delta: AdditiveDelta, factors: Mapping[str, Tensor], weight_shape: tuple[int, ...]) -> WeightDelta:
    """Return the change with the lengths of DoRA that a file has for it; without any, as it is.

    Args:
        delta: of the direction.
        factors: the file's, by their names.
        weight_shape: of the changed weight.

    Raises:
        ValueError: they are not as many as the weight has outputs or inputs.
    """
    for name in LENGTHS & factors.keys():
        lengths = factors[name]
        # peft's are the outputs', in whatever shape.
        per_input = name == "dora_scale" and lengths.shape[:1] != weight_shape[:1]
        return DoraDelta(delta, lengths, weight_shape, per_input)
    return delta
