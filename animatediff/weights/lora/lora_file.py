"""Low-rank files: LoRA, LoCon, LoHa, LoKr, DoRA, full differences, MotionLoRAs, domain adapters, in every layout.

A file becomes the changes of weights that it holds. A key that has no place in the models is an error, never a silent
loss; so are factors that are missing, do not fit, or are no numbers.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error
from animatediff.weights import textual_inversion
from animatediff.weights.identify import weights_file
from animatediff.weights.identify.base import BASE_OF_TEXT_WIDTH
from animatediff.weights.identify.messages import BASE_NAMES
from animatediff.weights.layouts.architectures import KnownBase, sdxl_or_sd1
from animatediff.weights.layouts.families import Family, LoraFamily
from animatediff.weights.lora import module_scales
from animatediff.weights.lora.deltas import AdditiveDelta, ProductDelta, WeightDelta, delta_from_factors
from animatediff.weights.lora.dora import LENGTHS, with_lengths
from animatediff.weights.lora.module_index import ModuleIndex, ModuleRef, StateDicts, WeightKey
from animatediff.weights.lora.module_scales import PeftLoraConfig
from animatediff.weights.reading.part_files import MODEL_FILES
from animatediff.weights.reading.tensors import TensorFile, open_tensors

_log = logging.getLogger(__name__)

_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_FILES_OF_A_FOLDER = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
    *MODEL_FILES,  # MotionLoRAs on the hub
)

# peft puts the adapter's own name, mostly `default`, into the keys of a model that it has not saved itself.
_KEY = re.compile(
    r"(.+?)[._](?:"
    r"(?:lora|lora_linear_layer)[._](down|up|mid|A|B)(?:\.[\w-]+)?\.weight"
    r"|(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|diff|diff_b|w_norm|b_norm|alpha|scalar)(?:\.default)?"
    r"|(dora_scale|lora_magnitude_vector)(?:\.default)?(?:\.weight)?"
    r")"
)
# A domain adapter is a LoRA: either may be given as the other.
_BASE_LORA_FAMILIES: set[Family] = {family for family in get_args(LoraFamily) if family != "motion_lora"}
_SCALE_KEYS = ("alpha", "scalar")
_KOHYA_FACTOR_NAMES = {"A": "down", "B": "up", "w_norm": "diff", "b_norm": "diff_b"}

_UNSUPPORTED_ALGORITHMS = {
    "GLoRA": "it changes the base's own weights by products with them",
    "IA3": "it scales activations",
    "OFT": "it rotates weights",
    "BOFT": "it rotates weights",
}


def read_deltas(uri: str, states: StateDicts, *, family: LoraFamily) -> dict[WeightKey, WeightDelta]:
    """Return the delta of each weight that a file changes.

    Args:
        uri: a weights file, or a folder that peft or diffusers wrote.
        states: the resident models' state dicts by part; only names and shapes are read.
        family: what the file is said to be. A domain adapter is a LoRA: either may be given as the other.

    Raises:
        UserError: the file is of another family or for another base, is incomplete or broken, or holds a key that has
            no place in the models.
    """
    file = open_lora(uri)
    with any_error_as_user_error(f"cannot read {uri}"):
        return _read_deltas(file, uri, states, family)


def _read_deltas(file: TensorFile, uri: str, states: StateDicts, family: LoraFamily) -> dict[WeightKey, WeightDelta]:
    check_family(file, family, base=sdxl_or_sd1(states["unet"]) if "unet" in states else None)
    file = textual_inversion.without_bundled(file)
    modules = _factors_by_module(file, states, family)
    peft_configs = {part: module_scales.read_peft_config(file, part) for part in {module.part for module in modules}}
    deltas: dict[WeightKey, WeightDelta] = {}
    for module, factors in modules.items():
        try:
            for name, delta in _module_deltas(module, factors, peft_configs[module.part]).items():
                weight = _fitting(delta, states[module.part].get(name), name, uri)
                lengths = factors if name.endswith(".weight") else {}
                deltas[module.part, name] = with_lengths(delta, lengths, tuple(weight.shape))
        except ValueError as error:
            raise UserError(f"{uri}: {module.path}: {error}") from error
    if deltas and not any(getattr(delta, "scale", 1.0) for delta in deltas.values()):
        _log.warning("%s changes nothing: its alphas or scalars are all 0", uri)
    return deltas


def open_lora(uri: str) -> TensorFile:
    """Return a low-rank file, or the one in a folder that peft or diffusers wrote.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if not uri.endswith(_SUFFIXES):
        for name in _FILES_OF_A_FOLDER:
            if storage.exists(storage.join(uri, name)):
                return open_tensors(storage.join(uri, name))
    return open_tensors(uri)


def check_family(file: TensorFile, family: LoraFamily, *, base: KnownBase | None) -> None:
    """Refuse a file of another family, for another base, or of an algorithm that is not applied.

    Args:
        file: the file.
        family: what it is said to be.
        base: the model it is to be used with; None is any.

    Raises:
        UserError: the line says what it is and where it belongs.
    """
    families: set[Family] = {"motion_lora"} if family == "motion_lora" else _BASE_LORA_FAMILIES
    algorithm = weights_file.expect_family(file, families, base=base).version  # which it is for low-rank files
    if algorithm in _UNSUPPORTED_ALGORITHMS:
        raise UserError(
            f"{file.uri} is of the kind {algorithm}, which is not applied ({_UNSUPPORTED_ALGORITHMS[algorithm]}): take "
            "a LoRA, or merge it into a checkpoint with the tool that made it"
        )


def split_factor_key(key: str) -> tuple[str, str] | None:
    """Return a module's name as the file spells it, and the factor's name as LyCORIS' or kohya's.

    None for any other key.
    """
    if match := _KEY.fullmatch(key):
        factor = match[2] or match[3] or match[4]
        return match[1], _KOHYA_FACTOR_NAMES.get(factor, factor)
    return None


def check_factor(tensor: Tensor, factor_name: str, what: str) -> Tensor:
    """Return the tensor, if it can be a factor of this name.

    Raises:
        UserError: it is of integers, empty, or holds NaN or infinite numbers; the line begins with `what`.
    """
    if factor_name in _SCALE_KEYS:
        return tensor
    if not tensor.is_floating_point():
        raise UserError(f"{what} is of {tensor.dtype}, floating-point numbers are needed")
    if not tensor.numel() or not tensor.ndim:
        raise UserError(f"{what} is empty")
    if not torch.isfinite(tensor.float()).all():
        raise UserError(f"{what} holds NaN or infinite numbers: the file is broken")
    return tensor


def _factors_by_module(file: TensorFile, states: StateDicts, family: LoraFamily) -> dict[ModuleRef, dict[str, Tensor]]:
    """Return the file's factors by the module that they change."""
    module_index = ModuleIndex(states, is_motion_lora=family == "motion_lora")
    keys_by_module: dict[ModuleRef, dict[str, str]] = defaultdict(dict)  # by the factors' names
    unknown = []
    for key in file.tensors:
        name, factor_name = split_factor_key(key) or (None, "")
        found = module_index.find(name) if name else []
        if not found:
            unknown.append(key)
            continue
        if len(found) > 1:
            parts = " or ".join(module.part for module in found)
            raise UserError(f"{file.uri}: {key} does not say what it changes, {parts}: put that before its name")
        keys = keys_by_module[found[0]]
        if factor_name in keys:
            raise UserError(f"{file.uri} has two factors {factor_name} for {found[0].path}, one of them {key}")
        keys[factor_name] = key
    if unknown and not (keys_by_module and _is_of_absent_mid_block(unknown, states, family)):
        raise UserError(
            f"{file.uri}: {len(unknown)} of its keys match nothing in the model, such as "
            f"{_describe_unmatched_key(unknown[0], module_index)}"
        )
    if unknown:
        _log.warning("%s is for a motion module with a mid block (v2); what it changes there is left out", file.uri)
    return _read_factors(file, keys_by_module)


def _read_factors(
    file: TensorFile, keys_by_module: Mapping[ModuleRef, Mapping[str, str]]
) -> dict[ModuleRef, dict[str, Tensor]]:
    """Read and check the factors of each module.

    Args:
        file: the file.
        keys_by_module: of each module the file's keys, by the factors' names.

    Returns:
        The tensors, by the factors' names. Modules without factors, or with factors of rank 0, are left out.
    """
    idle = {
        module
        for module, keys in keys_by_module.items()
        if not any(file.tensors[key].numel() for name, key in keys.items() if name not in _SCALE_KEYS)
    }
    if idle:
        _log.warning(
            "%s: %d of its %d modules have rank 0, or an alpha and no factors, such as %s: they change nothing",
            *(file.uri, len(idle), len(keys_by_module), min(idle).path),
        )
    return {
        module: {name: check_factor(file.tensors[key], name, f"{file.uri}: {key}") for name, key in keys.items()}
        for module, keys in keys_by_module.items()
        if module not in idle
    }


def _is_of_absent_mid_block(unknown: Sequence[str], states: StateDicts, family: LoraFamily) -> bool:
    if family != "motion_lora" or any(name.startswith("mid_block.") for name in states.get("motion", ())):
        return False
    return all("mid_block" in key and "motion_modules" in key and split_factor_key(key) for key in unknown)


def _describe_unmatched_key(key: str, module_index: ModuleIndex) -> str:
    name, _ = split_factor_key(key) or (key, "")
    part = module_index.absent_part(name)
    return f"{key}: it is for a model with a {part}" if part else key


def _module_deltas(
    module: ModuleRef, factors: Mapping[str, Tensor], peft_config: PeftLoraConfig | None
) -> dict[str, AdditiveDelta]:
    """Return a module's changes by parameter name.

    Raises:
        ValueError: factors are missing or do not go together.
    """

    def scale(rank: int | None) -> float:
        return module_scales.module_scale(factors, rank, peft_config, module)

    if "scalar" in factors and "diff" in factors:
        raise ValueError("a scalar stands beside its full difference, which has none")
    deltas: dict[str, AdditiveDelta] = {}
    if "diff_b" in factors:
        deltas[f"{module.path}.bias"] = ProductDelta((factors["diff_b"],), 1.0)
    others = {*_SCALE_KEYS, *LENGTHS, "diff_b"}
    of_weight = {name: factor for name, factor in factors.items() if name not in others}
    if of_weight or not deltas or LENGTHS & factors.keys():
        deltas[f"{module.path}.weight"] = delta_from_factors(of_weight, scale)
    return deltas


def _fitting(delta: AdditiveDelta, weight: Tensor | None, name: str, uri: str) -> Tensor:
    """Return the weight that a delta changes."""
    if weight is None:
        raise UserError(f"{uri} changes {name}, which the model does not have")
    shape, wanted = _without_unit_kernel(delta.shape), _without_unit_kernel(tuple(weight.shape))
    is_flat = len(shape) == 2 and shape == (wanted[0], math.prod(wanted[1:]))
    if shape == wanted or is_flat:
        return weight
    width = delta.shape[-1] if re.search(r"\.attn2\.to_[kv]\.weight$", name) else None
    hint = f": it was made for {BASE_NAMES[BASE_OF_TEXT_WIDTH[width]]}" if width in BASE_OF_TEXT_WIDTH else ""
    raise UserError(
        f"{uri} does not fit the base{hint}: {name} is {list(weight.shape)}, the file's change {list(delta.shape)}"
    )


def _without_unit_kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a weight, and of a 1x1 convolution's that of the matrix (o i) that it is."""
    return shape[:2] if all(size == 1 for size in shape[2:]) else shape
