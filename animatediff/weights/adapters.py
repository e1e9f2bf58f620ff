"""Trainable low-rank adapters as files: written in the official layouts, read from any."""

from collections.abc import Mapping

from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.models.lora import LowRankAdapters, adapter_name
from animatediff.weights.identify.lora import FAMILY_KEY
from animatediff.weights.layouts.families import LoraFamily
from animatediff.weights.lora import lora_file
from animatediff.weights.lora.deltas import LoraDelta, WeightDelta
from animatediff.weights.reading.tensors import save_tensors

_FAMILIES: Mapping[str, LoraFamily] = {"motion": "motion_lora", "unet": "domain_adapter"}


def write(uri: str, adapters: LowRankAdapters, *, metadata: Mapping[str, str]) -> None:
    """Write adapters in the layout of the published MotionLoRAs or domain adapter, in their own precision; atomically.

    Args:
        uri: a `.safetensors` file.
        adapters: what to write.
        metadata: for the file's header. A domain adapter also says there that it is one: of a rank other than 128
            nothing else tells.

    Raises:
        UserError: it cannot be written.
    """
    family = _FAMILIES[adapters.part]
    says_so = {FAMILY_KEY: family} if family == "domain_adapter" else {}
    save_tensors(uri, adapters.state_dict(), {**metadata, **says_so})


def read_into(uri: str, adapters: LowRankAdapters, adapted_module: nn.Module) -> None:
    """Set adapters to a file's, so that training goes on from there; the file's alphas become a part of `up`.

    Args:
        uri: a MotionLoRA, or a domain adapter or LoRA, in any layout that `lora_file.read_deltas` takes.
        adapters: of the file's rank.
        adapted_module: the motion modules or the base's UNet that the adapters are on; only names and shapes are read.

    Raises:
        UserError: the file cannot be read, is of another kind or rank, or changes other matrices than the adapters;
            these are as they were then.
    """
    family = _FAMILIES[adapters.part]
    deltas = lora_file.read_deltas(uri, {adapters.part: adapted_module.state_dict()}, family=family)
    names = {adapter_name(name.removesuffix(".weight")): name for _, name in deltas}
    trained = {name.removesuffix(".up.weight") for name in adapters.state_dict() if name.endswith(".up.weight")}
    if others := [names[adapter] for adapter in names.keys() - trained]:
        raise UserError(f"{uri} changes {min(others)} ({len(others)} such), which is not trained: take another file")
    if missing := trained - names.keys():
        raise UserError(f"{uri} has no {min(missing)} ({len(missing)} such missing): a whole file is needed")
    state: dict[str, Tensor] = {}
    for adapter, name in names.items():
        down, up = _factors(deltas[adapters.part, name], adapters.rank, f"{uri}: {name}")
        state |= {f"{adapter}.down.weight": down, f"{adapter}.up.weight": up}
    adapters.load_state_dict(state)


def _factors(delta: WeightDelta, rank: int, what: str) -> tuple[Tensor, Tensor]:
    if not isinstance(delta, LoraDelta):
        raise UserError(f"{what} is changed by other factors than up and down: training starts from plain LoRAs only")
    if len(delta.down) != rank:
        raise UserError(f"{what} is of rank {len(delta.down)}, the adapters to be trained of {rank}: set the file's")
    return delta.down.float(), delta.scale * delta.up.float()
