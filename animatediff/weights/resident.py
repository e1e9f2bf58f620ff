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
from animatediff.weights.lora import lora_file
from animatediff.weights.lora.deltas import LoraDelta, WeightDelta
from animatediff.weights.lora.module_index import WeightKey

# Float32 bytes of the weights in one batched product: dozens of attention matrices, and little beside any model. On a
# CPU nothing is gained by a batch, and fresh memory has its price: there it is one weight at a time.
_MAX_BATCH_BYTES = {"cpu": 0, "cuda": 256 << 20}


class ScaledLora(NamedTuple):
    """A low-rank file, and by how much it is added to the weights."""

    uri: str
    scale: float = 1.0
    """The user's strength, times the file's own scale (alpha / rank): 1 is as trained, 0 leaves every byte as it is."""
    family: LoraFamily = "lora"


DeltasByWeight = Mapping[WeightKey, Sequence[tuple[WeightDelta, ScaledLora]]]
"""What changes each weight, in the order of the files."""


class WeightUpdate(NamedTuple):
    """What files hold for resident modules, read but not yet put in their place."""

    checkpoint: str | None
    vae: str | None
    replacements: dict[WeightKey, Tensor]
    """What checkpoint and VAE have in place of the base's weights, without the deltas."""
    deltas: DeltasByWeight
    """What low-rank files add to the base's weights or to their replacements."""

    def file_of(self, key: WeightKey) -> str:
        """Return which file a weight's replacement is from, for messages."""
        return f"VAE {self.vae}" if key[0] == "vae" and self.vae is not None else f"checkpoint {self.checkpoint}"


class ResidentWeights:
    """The weights of resident modules: the base's own, or those of one personalised model.

    Args:
        modules: by part: `unet`, `vae`, `text_encoder`, `text_encoder_2`, `motion`. They must be where and in the
            precision in which they stay: moving them later breaks the link.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = dict(modules)
        self._states = {part: module.state_dict() for part, module in modules.items()}  # the modules' own memory
        self._pristine: dict[WeightKey, Tensor] = {}
        self._changed: set[WeightKey] = set()

    def load(self, checkpoint: str | None = None, scaled_loras: Sequence[ScaledLora] = ()) -> None:
        """`read` and `apply` in one.

        Raises:
            UserError: as these say.
        """
        self.apply(self.read(checkpoint, scaled_loras))

    def read(
        self,
        checkpoint: str | None = None,
        scaled_loras: Sequence[ScaledLora] = (),
        *,
        vae: str | None = None,
        into_memory: bool = False,
    ) -> WeightUpdate:
        """Read files without touching the weights, so that another thread may do it while the modules compute.

        Args:
            checkpoint: what `checkpoints.load` takes; None is the base as it is.
            scaled_loras: in any number; of several that change one weight the changes add up.
            vae: what `checkpoints.load` takes, for its VAE alone; None is the checkpoint's, or the base's.
            into_memory: whether to read checkpoint and VAE into memory now. Otherwise they stay mapped files, which are
                read when they are applied.

        Raises:
            UserError: a file cannot be read, or its form does not fit.
        """
        parts = {} if checkpoint is None else checkpoints.load(checkpoint, self._modules)
        replacements = {(part, name): tensor for part, state in parts.items() for name, tensor in state.items()}
        if vae is not None:
            vae_state = checkpoints.load(vae, {"vae": self._modules["vae"]})["vae"]
            replacements |= {("vae", name): tensor for name, tensor in vae_state.items()}
        if into_memory:
            replacements = {key: value.clone() for key, value in replacements.items()}
        deltas = _by_weight((self._read_deltas(lora), lora) for lora in scaled_loras if lora.scale != 0)
        return WeightUpdate(checkpoint, vae, replacements, deltas)

    @torch.no_grad()
    def apply(self, update: WeightUpdate) -> None:
        """Make the weights the base's, with a checkpoint in its place, plus `scale * delta` of every LoRA.

        Nothing of what was there before stays. The sums are taken in float32 and rounded once.

        Args:
            update: as `read` gave it.

        Raises:
            UserError: a file makes a weight NaN or infinite. The weights are the base's then.
        """
        replacements, deltas = update.replacements, update.deltas
        self.restore()
        try:
            for key in replacements.keys() - deltas.keys():
                self._replace(key, replacements[key], update.file_of(key))
            self._add_loras(deltas, replacements)
        except BaseException:
            self.restore()
            raise

    @torch.no_grad()
    def restore(self) -> None:
        """Make every byte the base's again."""
        for key in self._changed:
            self._resident_tensor(key).copy_(self._pristine[key])
        self._changed.clear()

    def is_changed(self, part: str) -> bool:
        """Whether any weight of a part is not the base's."""
        return any(changed == part for changed, _ in self._changed)

    def _read_deltas(self, lora: ScaledLora) -> dict[WeightKey, WeightDelta]:
        return lora_file.read_deltas(lora.uri, self._states, family=lora.family)

    def _resident_tensor(self, key: WeightKey) -> Tensor:
        part, name = key
        return self._states[part][name]

    def _replace(self, key: WeightKey, value: Tensor, files: str) -> None:
        resident = self._resident_tensor(key)
        value = value.to(resident.device, resident.dtype)
        # One pass without temporaries, 20 times as fast as `isfinite().all()` on a CPU; NaN is both least and most.
        if not all(map(math.isfinite, torch.aminmax(value))):
            raise UserError(f"{files} makes {key[1]} NaN or infinite: it is broken, or too large for {resident.dtype}")
        if key not in self._pristine:
            self._pristine[key] = resident.to("cpu", copy=True)
        self._changed.add(key)
        resident.copy_(value)

    def _add_loras(self, deltas: DeltasByWeight, replacements: Mapping[WeightKey, Tensor]) -> None:
        """Set weights to the base's, or their replacements, plus their changes."""
        for batch in self._batches(deltas):
            device = self._resident_tensor(batch[0]).device
            unchanged = (replacements.get(key, self._resident_tensor(key)) for key in batch)
            weights = torch.stack([_matrix(weight.to(device)).float() for weight in unchanged])  # (n o i)
            sums = _add_deltas(weights, [deltas[key] for key in batch])
            for key, value in zip(batch, sums, strict=True):
                files = " and ".join(lora.uri for _, lora in deltas[key])
                self._replace(key, value.view_as(self._resident_tensor(key)), files)

    def _batches(self, deltas: DeltasByWeight) -> Iterable[list[WeightKey]]:
        """Yield weights that one batched product can change: of one shape, device and sum of the files' ranks.

        No more are yielded together than `_MAX_BATCH_BYTES` allows.
        """
        alike: dict[object, list[WeightKey]] = defaultdict(list)
        for key, found in deltas.items():
            weight = self._resident_tensor(key)
            rank = sum(delta.down.shape[0] for delta, _ in found if isinstance(delta, LoraDelta))
            alike[(_matrix(weight).shape, weight.device, rank)].append(key)
        for targets in alike.values():
            weight = self._resident_tensor(targets[0])
            size = max(1, _MAX_BATCH_BYTES.get(weight.device.type, 0) // (4 * weight.numel()))
            yield from (targets[start : start + size] for start in range(0, len(targets), size))


def _by_weight(deltas_of_files: Iterable[tuple[Mapping[WeightKey, WeightDelta], ScaledLora]]) -> DeltasByWeight:
    deltas: dict[WeightKey, list[tuple[WeightDelta, ScaledLora]]] = defaultdict(list)
    for deltas_of_file, lora in deltas_of_files:
        for key, delta in deltas_of_file.items():
            deltas[key].append((delta, lora))
    return deltas


def _add_deltas(weights: Tensor, deltas: Sequence[Sequence[tuple[WeightDelta, ScaledLora]]]) -> Tensor:
    """`weights` (n o i) plus each one's changes, all low-rank ones in one batched product of their joined factors."""
    others = [
        [
            (delta.to(weight.device).change_of(weight), lora.scale)
            for delta, lora in found
            if not isinstance(delta, LoraDelta)
        ]
        for weight, found in zip(weights, deltas, strict=True)
    ]
    factors = [_concatenate_low_rank(found, weights.device) for found in deltas]
    if all(factor is not None for factor in factors):
        ups, downs = zip(*(factor for factor in factors if factor is not None), strict=True)
        weights = torch.baddbmm(weights, torch.stack(ups), torch.stack(downs))
    for weight, changes in zip(weights, others, strict=True):
        for change, scale in changes:
            weight.add_(change, alpha=scale)
    return weights


def _concatenate_low_rank(
    found: Sequence[tuple[WeightDelta, ScaledLora]], device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Up (o r) and down (r i) of several low-rank changes joined along their ranks, scales included."""
    low_rank = [(delta, lora.scale * delta.scale) for delta, lora in found if isinstance(delta, LoraDelta)]
    if not low_rank:
        return None
    ups = [scale * delta.up.to(device).float() for delta, scale in low_rank]
    downs = [delta.down.to(device).float() for delta, _ in low_rank]
    return torch.cat(ups, dim=1), torch.cat(downs)


def _matrix(weight: Tensor) -> Tensor:
    """Return a kernel or a bias as (o i)."""
    return weight.reshape(len(weight), -1)
