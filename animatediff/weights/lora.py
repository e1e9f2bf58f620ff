"""LoRA files, merged into a base's weights: kohya's layout and diffusers' layouts.

Every layout names the changed module by its path, with dots or underscores. So the base's own module names are the
key map: a factor that matches none of them is an error, never a silent loss.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from torch import Tensor

from animatediff.errors import UserError
from animatediff.weights.checkpoints import State, read_safetensors
from animatediff.weights.files import local_copy

_FACTOR = re.compile(
    r"(?P<module>.+?)[._](?:"
    r"(?P<alpha>alpha)"
    r"|(?:lora|lora_linear_layer)[._](?P<factor>down|up|A|B)(?:\.default)?\.weight"
    r")"
)
_PREFIXES = (("lora_unet_", "unet"), ("unet_", "unet"), ("lora_te_", "text_encoder"), ("text_encoder_", "text_encoder"))
_IS_DOWN = {"down": True, "A": True, "up": False, "B": False}


class Delta(NamedTuple):
    """One module's change: `alpha / rank * up @ down`."""

    down: Tensor
    up: Tensor
    alpha: float

    def weight(self) -> Tensor:
        """The change in the shape of the module's weight, float32: (d d) or, of a convolution, (c c h w)."""
        rank = len(self.down)
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        shape = (len(self.up), *self.down.shape[1:])
        return (self.alpha / rank * product).reshape(shape)


def merge(states: Mapping[str, State], uri: str, *, scale: float) -> dict[str, State]:
    """The states with a LoRA merged in: `weight + scale * alpha / rank * up @ down`.

    Args:
        states: state dicts by `unet` and `text_encoder`; they are left alone.
        uri: the `.safetensors` file.
        scale: strength; 1 is as trained, 0 changes nothing.

    Returns:
        New dicts; tensors that the LoRA does not touch are shared with `states`.

    Raises:
        UserError: the file cannot be read, or holds a key that matches no weight of the base.
    """
    merged = {part: dict(state) for part, state in states.items()}
    for (part, name), delta in read(uri, states).items():
        weight, change = merged[part][name], delta.weight()
        if change.shape[:2] == weight.shape[:2] and change.numel() == weight.numel():
            change = change.reshape(weight.shape)  # a linear layer and a 1x1 convolution are the same matrix
        if weight.shape != change.shape:
            raise UserError(
                f"LoRA {uri} does not fit the base: {name} is {list(weight.shape)}, the LoRA's {list(change.shape)}"
            )
        merged[part][name] = weight.float() + scale * change
    return merged


def read(uri: str, states: Mapping[str, State]) -> dict[tuple[str, str], Delta]:
    """A file's changes by part and weight name; alpha is the rank where the file has none.

    Raises:
        UserError: the file cannot be read, is incomplete, or holds a key that matches no weight of the base.
    """
    factors: dict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
    known = _known_names(states)
    unknown = []
    path = local_copy(uri)
    for key, tensor in read_safetensors(path, uri).items():
        match = _FACTOR.fullmatch(key)
        target = match and known.get(_flat(match["module"]))
        if not match or not target:
            unknown.append(key)
            continue
        kind = "alpha" if match["alpha"] else "down" if _IS_DOWN[match["factor"]] else "up"
        factors[target][kind] = tensor
    if unknown:
        raise UserError(f"LoRA {uri}: {len(unknown)} keys match nothing in the base, such as {unknown[0]}")
    alphas = _part_alphas(path)
    return {target: _delta(found, alphas.get(target[0]), f"{target[1]} of {uri}") for target, found in factors.items()}


def _delta(found: dict[str, Tensor], part_alpha: float | None, what: str) -> Delta:
    if "down" not in found or "up" not in found:
        raise UserError(f"the LoRA's {what} is incomplete: it has only {', '.join(sorted(found))}")
    down, up = found["down"], found["up"]
    if up.flatten(1).shape[1] != len(down):
        raise UserError(f"the LoRA's {what} has factors of rank {len(down)} and {up.flatten(1).shape[1]}")
    default = len(down) if part_alpha is None else part_alpha
    return Delta(down, up, float(found.get("alpha", default)))


def _part_alphas(path: Path) -> dict[str, float]:
    """The alphas that diffusers writes, one a part, into the file's metadata."""
    with safe_open(path, "pt") as file:
        adapter = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    names = {part: f"{part}.lora_alpha" for part in ("unet", "text_encoder")}
    return {part: float(adapter[name]) for part, name in names.items() if name in adapter}


def _known_names(states: Mapping[str, State]) -> dict[str, tuple[str, str]]:
    """Flattened module name -> (part, weight name), for every matrix and convolution of the base."""
    return {
        _flat(f"{part}.{name.removesuffix('.weight')}"): (part, name)
        for part in ("unet", "text_encoder")
        for name, tensor in states[part].items()
        if name.endswith(".weight") and tensor.ndim in (2, 4)
    }


def _flat(module: str) -> str:
    """One spelling for all: `lora_te_text_model_...` (kohya), `unet....attn1.processor.to_out` (diffusers)."""
    flat = module.replace(".", "_")
    for prefix, part in _PREFIXES:
        if flat.startswith(prefix):
            flat = f"{part}:{flat.removeprefix(prefix).removeprefix('text_model_')}"
            break
    flat = flat.replace("_processor_", "_").replace("_to_out_0", "_to_out")
    # Early diffusers files call the text encoder's projections as the UNet's.
    return re.sub(r"_self_attn_to_(q|k|v|out)$", r"_self_attn_\1_proj", flat)
