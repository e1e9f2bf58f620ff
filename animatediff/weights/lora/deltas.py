"""The change that a low-rank file makes to one weight, kept as the file's factors until it is needed.

All arithmetic is in float32, whatever the file's precision; `change_of()` is the change itself, its own scale included.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

Factors = tuple[Tensor, ...]
"""The factors of a matrix or kernel, of which there are one, two or three.

One is the matrix or kernel itself. Two are a (o r) and b (r i*kh*kw), whose product is `a @ b`. Three are a (r o), b
(s i) and their core (r s kh kw), a Tucker decomposition: a is transposed there.
"""


class WeightDelta(ABC):
    """The change of one weight; its factors may be of any float type and on any device.

    Making one raises a ValueError if the factors do not go together.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The changed weight's, or (o, i*kh*kw) where the factors do not tell a kernel's size."""

    @abstractmethod
    def change_of(self, weight: Tensor) -> Tensor:
        """Return what is added to a weight, float32.

        Args:
            weight: without any change, in float32; in its own shape, or (o, i*kh*kw).

        Returns:
            In the shape of `weight`.
        """

    def to(self, device: torch.device) -> Self:
        """Return the same change with its factors on `device`."""
        moved = {field.name: _moved_to(getattr(self, field.name), device) for field in fields(self)}  # type: ignore[arg-type]
        return replace(self, **moved)  # type: ignore[type-var]


class AdditiveDelta(WeightDelta):
    """A change that does not depend on the weight."""

    @abstractmethod
    def to_dense(self) -> Tensor:
        """Return the change, float32."""

    def change_of(self, weight: Tensor) -> Tensor:
        """Return the change in the shape of `weight`."""
        return self.to_dense().reshape(weight.shape)


@dataclass(frozen=True)
class LoraDelta(AdditiveDelta):
    """`scale * up @ down`: LoRA, and LoCon without a core."""

    up: Tensor
    """(o r)"""
    down: Tensor
    """(r i*kh*kw)"""
    scale: float
    """Mostly alpha / r."""
    kernel: tuple[int, ...] = ()
    """kh and kw of a convolution; empty for a matrix."""

    def __post_init__(self) -> None:
        _product_shape((self.up, self.down))

    @property
    def shape(self) -> tuple[int, ...]:
        """(o, i) or (o, i, kh, kw)."""
        return (self.up.shape[0], self.down.shape[1] // math.prod(self.kernel), *self.kernel)

    def to_dense(self) -> Tensor:
        """`scale * up @ down` in the shape `shape`."""
        return (self.scale * (self.up.float() @ self.down.float())).reshape(self.shape)


@dataclass(frozen=True)
class ProductDelta(AdditiveDelta):
    """`scale` times one product of factors: a LoCon with a core, or a full difference (one factor)."""

    factors: Factors
    scale: float

    def __post_init__(self) -> None:
        _product_shape(self.factors)

    @property
    def shape(self) -> tuple[int, ...]:
        """The product's shape; a full difference's own, which may be a vector's."""
        return _product_shape(self.factors)

    def to_dense(self) -> Tensor:
        """`scale` times the product."""
        return self.scale * _multiply(self.factors)


@dataclass(frozen=True)
class LoHaDelta(AdditiveDelta):
    """The elementwise (Hadamard) product of two products."""

    first: Factors
    second: Factors
    scale: float

    def __post_init__(self) -> None:
        first, second = _product_shape(self.first), _product_shape(self.second)
        if first != second:
            raise ValueError(f"its two products are {list(first)} and {list(second)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(o, i, kh, kw) where the factors have cores, else (o, i*kh*kw)."""
        return _product_shape(self.first)

    def to_dense(self) -> Tensor:
        """`scale * first * second`."""
        return self.scale * _multiply(self.first) * _multiply(self.second)


@dataclass(frozen=True)
class LoKrDelta(AdditiveDelta):
    """The Kronecker product of two products: the first, a matrix, says how the second is repeated in blocks."""

    first: Factors
    second: Factors
    scale: float

    def __post_init__(self) -> None:
        first, second = _product_shape(self.first), _product_shape(self.second)
        if len(first) != 2 or len(second) < 2:
            raise ValueError(f"its two products are {list(first)} and {list(second)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Products of the two shapes; the second may have a kernel, or may be flat: (o, i*kh*kw)."""
        (o, i), (p, j, *kernel) = _product_shape(self.first), _product_shape(self.second)
        return (o * p, i * j, *kernel)

    def to_dense(self) -> Tensor:
        """`scale * kron(first, second)`; a kernel's positions are repeated, not multiplied."""
        first, second = _multiply(self.first), _multiply(self.second)
        first = first.reshape(*first.shape, *[1] * (second.ndim - 2))
        return self.scale * torch.kron(first.contiguous(), second.contiguous())  # it fails on other strides


_LOHA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
_LOHA_FORMS = (_LOHA, _LOHA | {"hada_t1", "hada_t2"})
_LOKR_FIRST = ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
_LOKR_SECOND = ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"})
_LOKR_FORMS = tuple(first | second for first in _LOKR_FIRST for second in _LOKR_SECOND)


def delta_from_factors(factors: Mapping[str, Tensor], scale_for_rank: Callable[[int | None], float]) -> AdditiveDelta:
    """Return the change that a file's factors make.

    Args:
        factors: by kohya's names (`down`, `up`, `mid`), LyCORIS' (`hada_w1_a`, `lokr_t2`, `diff`, ...).
        scale_for_rank: gives the scale of factors of a rank; the rank is None in a LoKr of two whole matrices.

    Raises:
        ValueError: factors are missing or do not go together.
    """
    names = set(factors)
    if names == {"diff"}:
        return ProductDelta((factors["diff"],), 1.0)
    if names - {"mid"} == {"down", "up"}:
        return _lora_delta(factors, scale_for_rank(len(factors["down"])))
    if names in _LOHA_FORMS:
        first = _select_factors(factors, "hada_w1_a", "hada_w1_b", "hada_t1")
        second = _select_factors(factors, "hada_w2_a", "hada_w2_b", "hada_t2")
        return LoHaDelta(first, second, scale_for_rank(len(factors["hada_w1_b"])))
    if names in _LOKR_FORMS:
        first = _select_factors(factors, "lokr_w1", "lokr_w1_a", "lokr_w1_b")
        second = _select_factors(factors, "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
        ranked = _select_factors(factors, "lokr_w2_b", "lokr_w1_b")
        return LoKrDelta(first, second, scale_for_rank(len(ranked[0]) if ranked else None))
    raise ValueError(f"its factors are incomplete, or of several kinds: {', '.join(sorted(names)) or 'only alpha'}")


def _lora_delta(factors: Mapping[str, Tensor], scale: float) -> AdditiveDelta:
    up, down = _as_matrix(factors["up"]), factors["down"]
    if "mid" in factors:
        return ProductDelta((up.T, _as_matrix(down), factors["mid"]), scale)
    if down.ndim not in (2, 4):
        raise ValueError(f"its factor down is {list(down.shape)}, neither a matrix nor a convolution")
    return LoraDelta(up, down.flatten(1), scale, kernel=tuple(down.shape[2:]))


def _as_matrix(factor: Tensor) -> Tensor:
    """Return a linear layer's weight or a 1x1 convolution's, which are the same matrix."""
    if factor.ndim == 2 or (factor.ndim == 4 and factor.shape[2:] == (1, 1)):
        return factor.flatten(1)
    raise ValueError(f"a factor is {list(factor.shape)}, not a matrix")


def _select_factors(factors: Mapping[str, Tensor], *names: str) -> Factors:
    return tuple(factors[name] for name in names if name in factors)


def _multiply(factors: Factors) -> Tensor:
    if len(factors) == 1:
        return factors[0].float()
    if len(factors) == 2:
        return factors[0].float() @ factors[1].float()
    a, b, core = (factor.float() for factor in factors)
    return torch.einsum("rshw,ro,si->oihw", core, a, b)


def _product_shape(factors: Factors) -> tuple[int, ...]:
    """Return the shape of `_multiply`, without computing it.

    Raises:
        ValueError: the factors do not go together.
    """
    shapes = [tuple(factor.shape) for factor in factors]
    if len(factors) == 1:
        return shapes[0]
    if any(len(shape) != 2 for shape in shapes[:2]):
        raise ValueError(f"its factors are no matrices: {shapes}")
    (a0, a1), (b0, b1), *cores = shapes
    if not cores:
        if a1 != b0:
            raise ValueError(f"its factors are of rank {b0} and {a1}")
        return (a0, b1)
    if len(cores[0]) != 4 or cores[0][:2] != (a0, b0):
        raise ValueError(f"its factors are of rank {a0} and {b0}, the core between them is {list(cores[0])}")
    return (a1, b1, *cores[0][2:])


def _moved_to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor | WeightDelta):
        return value.to(device)
    return tuple(_moved_to(item, device) for item in value) if isinstance(value, tuple) else value
