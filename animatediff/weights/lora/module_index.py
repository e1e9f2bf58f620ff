"""Which weight of the resident models a low-rank file means.

Every layout names a module by its path in the model that was trained: with dots or with underscores, in diffusers'
names or in the original repositories', with the model's own name before it or without. So the resident models' names
are the table, and a file's name that is not in it has no place in these models.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from animatediff.weights.layouts.ldm import unet_ldm_names
from animatediff.weights.layouts.motion import from_official

WeightKey = tuple[str, str]
"""Which weight of the resident models: a part, and a name in its state dict: ("unet", "conv_in.weight")."""

StateDicts = Mapping[str, Mapping[str, Tensor]]
"""State dicts by part."""

_WRAPPER = "base_model_model_"  # peft's, around the whole model
_PREFIXES = (
    # kohya, OneTrainer
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    # LyCORIS outside kohya's scripts
    ("lycoris_", "unet"),
    # diffusers
    ("unet_", "unet"),
    ("text_encoder_2_", "text_encoder_2"),
    ("text_encoder_", "text_encoder"),
    # ComfyUI
    ("diffusion_model_", "unet"),
    ("text_encoders_clip_l_transformer_", "text_encoder"),
    ("text_encoders_clip_g_transformer_", "text_encoder_2"),
    # OneTrainer's later files
    ("clip_l_", "text_encoder"),
    ("clip_g_", "text_encoder_2"),
)


class ModuleRef(NamedTuple):
    """Which module of the resident models."""

    part: str
    path: str


class ModuleIndex:
    """The modules that a file may change, by every name that files have for them.

    Args:
        states: the resident models' state dicts; only names are read.
        is_motion_lora: whether the file is a MotionLoRA. Files count a motion module's layers among the UNet's: a name
            that says `unet` is then looked up in the motion module alone.
    """

    def __init__(self, states: StateDicts, *, is_motion_lora: bool) -> None:
        parts = {"unet": "motion"} if is_motion_lora else {part: part for _, part in _PREFIXES}
        self._modules = {
            part_in_file: _modules(part, states[part]) for part_in_file, part in parts.items() if part in states
        }
        """By the part that files say; of each, the modules by their flat names."""

    def find(self, name: str) -> list[ModuleRef]:
        """Return what a file's name for a module can mean: mostly one module, none if it has no place in the models."""
        part_in_file, flat = _split_part(name)
        known = [modules for part, modules in self._modules.items() if part_in_file in (part, None)]
        return [modules[flat] for modules in known if flat in modules]

    def absent_part(self, name: str) -> str | None:
        """Return the part that a file's name for a module speaks of, if the models have none such."""
        part_in_file, _ = _split_part(name)
        return None if part_in_file is None or part_in_file in self._modules else part_in_file


def _modules(part: str, names: Iterable[str]) -> dict[str, ModuleRef]:
    """Return the part's modules by their flat names, in each layout."""
    paths = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    aliases = [*zip(paths, paths, strict=True), *zip(_other_names(part, paths), paths, strict=True)]
    return {_flat_name(alias): ModuleRef(part, path) for alias, path in aliases}


def _other_names(part: str, paths: list[str]) -> list[str]:
    if part == "motion":
        return [from_official(path, "diffusers") for path in paths]
    if part == "unet":
        try:
            return list(unet_ldm_names(paths).values())
        except ValueError:  # a UNet with something that the original layout never had, as an LCM's guidance input
            return paths
    return paths


def _split_part(name: str) -> tuple[str | None, str]:
    """Return the part that a file's name for a module speaks of, if it does, and the rest of it, flat."""
    name = name.replace(".", "_").removeprefix(_WRAPPER)
    for prefix, part in _PREFIXES:
        if name.startswith(prefix):
            while name.startswith(prefix):  # some savers put it before names that have it already
                name = name.removeprefix(prefix)
            return part, _flat_name(name)
    return None, _flat_name(name)


def _flat_name(path: str) -> str:
    """One spelling of a path for all layouts."""
    flat = path.replace(".", "_")
    # transformers has moved between names with and without this.
    flat = flat.removeprefix("text_model_")
    # diffusers' first layout, MotionDirector's: the factors belong to an attention processor, and the text encoder's
    # projections are called as the UNet's.
    flat = re.sub(r"_self_attn_to_(q|k|v|out)$", r"_self_attn_\1_proj", flat.replace("_processor_", "_"))
    # The output projection is the first of a list, whose second is a dropout.
    return flat.removesuffix("_0") if flat.endswith("_to_out_0") else flat
