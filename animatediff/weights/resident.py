"""Weights of models that stay in memory while personalised files come and go, exchanged in place.

What a file changes is copied before the first change and copied back afterwards. Nothing is ever subtracted: after a
removal every byte is the base's again.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.weights import checkpoints
from animatediff.weights.layouts.families import LoraFamily
from animatediff.weights.lora import read as lora
from animatediff.weights.lora.deltas import LoraDelta, WeightDelta
from animatediff.weights.lora.read import Target

# Float32 bytes of the weights in one batched product: dozens of attention matrices, and little beside any model. On a
# CPU nothing is gained by a batch, and fresh memory has its price: there it is one weight at a time.
_MAX_BATCH_BYTES = {"cpu": 0, "cuda": 256 << 20}


class Addition(NamedTuple):
    """A low-rank file to add to the weights."""

    uri: str
    scale: float = 1.0
    """Strength; 1 is as trained, 0 leaves every byte as it is."""
    family: LoraFamily = "lora"


Changes = Mapping[Target, Sequence[tuple[WeightDelta, Addition]]]
"""What changes each weight, in the order of the additions."""


class WeightUpdate(NamedTuple):
    """What files hold for resident modules, read but not yet put in their place."""

    checkpoint: str | None
    vae: str | None
    replaced: dict[Target, Tensor]
    changes: Changes

    def source(self, target: Target) -> str:
        """Return what replaces a weight, for messages."""
        return f"VAE {self.vae}" if target[0] == "vae" and self.vae is not None else f"checkpoint {self.checkpoint}"


class ResidentWeights:
    """The weights of resident modules: the base's own, or those of one personalised model.

    Args:
        modules: by part: `unet`, `vae`, `text_encoder`, `text_encoder_2`, `motion`. They must be where and in the
            precision in which they stay: moving them later breaks the link.
        predicts_v: whether they are used with a noise schedule for models that predict v, as checkpoints may be.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, predicts_v: bool = False) -> None:
        self._modules, self._predicts_v = dict(modules), predicts_v
        self._states = {part: module.state_dict() for part, module in modules.items()}  # the modules' own memory
        self._pristine: dict[Target, Tensor] = {}
        self._changed: set[Target] = set()

    def load(self, checkpoint: str | None = None, additions: Sequence[Addition] = ()) -> None:
        """`read` and `apply` in one.

        Raises:
            UserError: as these say.
        """
        self.apply(self.read(checkpoint, additions))

    def read(
        self,
        checkpoint: str | None = None,
        additions: Sequence[Addition] = (),
        *,
        vae: str | None = None,
        ahead: bool = False,
    ) -> WeightUpdate:
        """Read files without touching the weights, so that another thread may do it while the modules compute.

        Args:
            checkpoint: what `checkpoints.load` takes; None is the base as it is.
            additions: in any number; of several that change one weight the changes add up.
            vae: what `checkpoints.load` takes, for its VAE alone; None is the checkpoint's, or the base's.
            ahead: whether to bring checkpoint and VAE into memory now. Otherwise it stays a mapped file, which is read
                when it is applied.

        Raises:
            UserError: a file cannot be read, or its form does not fit.
        """
        parts = {}
        if checkpoint is not None:
            parts = checkpoints.load(checkpoint, self._modules, predicts_v=self._predicts_v)
        replaced = {(part, name): tensor for part, state in parts.items() for name, tensor in state.items()}
        if vae is not None:
            own = checkpoints.load(vae, {"vae": self._modules["vae"]})["vae"]
            replaced |= {("vae", name): tensor for name, tensor in own.items()}
        if ahead:
            replaced = {target: value.clone() for target, value in replaced.items()}
        changes = _by_target((self._read(addition), addition) for addition in additions if addition.scale != 0)
        return WeightUpdate(checkpoint, vae, replaced, changes)

    @torch.no_grad()
    def apply(self, reading: WeightUpdate) -> None:
        """Make the weights the base's, with a checkpoint in its place, plus `scale * change` of every addition.

        Nothing of what was there before stays. The sums are taken in float32 and rounded once.

        Args:
            reading: as `read` gave it.

        Raises:
            UserError: a file makes a weight NaN or infinite. The weights are the base's then.
        """
        replaced, changes = reading.replaced, reading.changes
        self.restore()
        try:
            for target in replaced.keys() - changes.keys():
                self._replace(target, replaced[target], reading.source(target))
            self._add(changes, replaced)
        except BaseException:
            self.restore()
            raise

    @torch.no_grad()
    def restore(self) -> None:
        """Make every byte the base's again."""
        for target in self._changed:
            self._tensor(target).copy_(self._pristine[target])
        self._changed.clear()

    def is_changed(self, part: str) -> bool:
        """Whether any weight of a part is not the base's."""
        return any(changed == part for changed, _ in self._changed)

    def _read(self, addition: Addition) -> dict[Target, WeightDelta]:
        return lora.read(addition.uri, self._states, family=addition.family)

    def _tensor(self, target: Target) -> Tensor:
        part, name = target
        return self._states[part][name]

    def _replace(self, target: Target, value: Tensor, source: str) -> None:
        resident = self._tensor(target)
        value = value.to(resident.device, resident.dtype)
        # One pass without temporaries, 20 times as fast as `isfinite().all()` on a CPU; NaN is both least and most.
        if not all(map(math.isfinite, torch.aminmax(value))):
            raise UserError(
                f"{source} makes {target[1]} NaN or infinite: it is broken, or too large for {resident.dtype}"
            )
        if target not in self._pristine:
            self._pristine[target] = resident.to("cpu", copy=True)
        self._changed.add(target)
        resident.copy_(value)

    def _add(self, changes: Changes, replaced: Mapping[Target, Tensor]) -> None:
        """Set weights to the base's, or those that replace them, plus their changes."""
        for batch in self._batches(changes):
            device = self._tensor(batch[0]).device
            sources = (replaced.get(target, self._tensor(target)) for target in batch)
            weights = torch.stack([_matrix(source.to(device)).float() for source in sources])  # (n o i)
            sums = _sum(weights, [changes[target] for target in batch])
            for target, value in zip(batch, sums, strict=True):
                files = " and ".join(addition.uri for _, addition in changes[target])
                self._replace(target, value.view_as(self._tensor(target)), files)

    def _batches(self, changes: Changes) -> Iterable[list[Target]]:
        """ModuleIndex whose weights and total ranks have one shape, a bounded number at a time."""
        alike: dict[object, list[Target]] = defaultdict(list)
        for target, found in changes.items():
            weight = self._tensor(target)
            rank = sum(change.down.shape[0] for change, _ in found if isinstance(change, LoraDelta))
            alike[(_matrix(weight).shape, weight.device, rank)].append(target)
        for targets in alike.values():
            weight = self._tensor(targets[0])
            size = max(1, _MAX_BATCH_BYTES.get(weight.device.type, 0) // (4 * weight.numel()))
            yield from (targets[start : start + size] for start in range(0, len(targets), size))


def _by_target(files: Iterable[tuple[Mapping[Target, WeightDelta], Addition]]) -> Changes:
    changes: dict[Target, list[tuple[WeightDelta, Addition]]] = defaultdict(list)
    for file, addition in files:
        for target, change in file.items():
            changes[target].append((change, addition))
    return changes


def _sum(weights: Tensor, changes: Sequence[Sequence[tuple[WeightDelta, Addition]]]) -> Tensor:
    """`weights` (n o i) plus each one's changes, all low-rank ones in one batched product of their joined factors."""
    factors = [_joined(found, weights.device) for found in changes]
    if all(factor is not None for factor in factors):
        ups, downs = zip(*(factor for factor in factors if factor is not None), strict=True)
        weights = torch.baddbmm(weights, torch.stack(ups), torch.stack(downs))
    for weight, found in zip(weights, changes, strict=True):
        for change, addition in found:
            if not isinstance(change, LoraDelta):
                weight.add_(change.to(weight.device).weight().reshape(weight.shape), alpha=addition.scale)
    return weights


def _joined(found: Sequence[tuple[WeightDelta, Addition]], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Up (o r) and down (r i) of several low-rank changes joined along their ranks, scales included."""
    low_rank = [(change, addition.scale * change.scale) for change, addition in found if isinstance(change, LoraDelta)]
    if not low_rank:
        return None
    ups = [scale * change.up.to(device).float() for change, scale in low_rank]
    downs = [change.down.to(device).float() for change, _ in low_rank]
    return torch.cat(ups, dim=1), torch.cat(downs)


def _matrix(weight: Tensor) -> Tensor:
    """Return a kernel or a bias as (o i)."""
    return weight.reshape(len(weight), -1)
