"""MotionLoRAs and domain adapters from the official layout to diffusers' and back."""

import re
from typing import Literal

from safetensors.torch import save

from animatediff import storage
from animatediff.errors import UserError
from animatediff.weights import identify, lora_scales
from animatediff.weights.lora import checked, open_file, split_key
from animatediff.weights.motion_layouts import from_official, to_official
from animatediff.weights.targets import Module
from animatediff.weights.tensors import TensorFile

_PEFT_FACTORS = {"down": "A", "up": "B"}
# What the official layout and diffusers' both have names for: the projections of the spatial and temporal transformers.
_PROJECTION = re.compile(r"(?:down|mid|up)_block.*\.transformer_blocks\.\d+\.(?:attn\d+|ff)\..+")


def convert(uri: str, out_uri: str, *, to: Literal["official", "diffusers"]) -> None:
    """Write a MotionLoRA or domain adapter under another layout's names; the factors stay as they are, bit for bit.

    Args:
        uri: in the official layout (attention processors' names), MotionDirector's, diffusers' or peft's.
        out_uri: the `.safetensors` file, written atomically.
        to: the official layout, or diffusers' (`AnimateDiffPipeline.load_lora_weights`).

    Raises:
        UserError: the file is another's, holds a key that the layouts have no name for, or an alpha that is not the
            rank: the official layout has no place for one.
    """
    file = open_file(uri)
    identify.expect(file, {"motion_lora", "domain_adapter", "lora"})
    _check_strengths(file)
    factors = {
        _converted(key, to, uri): tensor.contiguous()
        for key, tensor in file.tensors.items()
        if not key.endswith(".alpha")
    }
    metadata = {name: text for name, text in file.metadata.items() if name != lora_scales.METADATA_KEY}
    storage.write_bytes(out_uri, save(factors, metadata=metadata | {"format": "pt"}))


def _converted(key: str, to: Literal["official", "diffusers"], uri: str) -> str:
    name, factor = split_key(key) or (key, "")
    path = _path_in_diffusers(name)
    if factor not in _PEFT_FACTORS or not _PROJECTION.fullmatch(path):
        raise UserError(f"{uri}: neither layout has a name for {key}: it is no MotionLoRA or domain adapter of theirs")
    if to == "diffusers":
        return f"unet.{path}.lora_{_PEFT_FACTORS[factor]}.weight"
    official = to_official(path, "diffusers") or path
    parent, _, last = official.removesuffix(".0").rpartition(".")
    return f"{parent}.processor.{last}_lora.{factor}.weight"


def _path_in_diffusers(name: str) -> str:
    path = from_official(name.removeprefix("base_model.model.").removeprefix("unet."), "diffusers")
    return re.sub(r"\.to_out$", ".to_out.0", path.replace(".processor.", "."))


def _check_strengths(file: TensorFile) -> None:
    scales = lora_scales.read(file, "unet")
    for key, tensor in file.tensors.items():
        name, factor = split_key(key) or ("", "")
        checked(tensor, factor, f"{file.uri}: {key}")
        if factor != "down":
            continue
        module, alpha = Module("unet", _path_in_diffusers(name)), file.tensors.get(f"{name}.alpha")
        try:
            strength = lora_scales.strength(alpha, len(tensor), scales, module)
        except ValueError as error:
            raise UserError(f"{file.uri}: {name}: {error}") from error
        if strength != 1:
            raise UserError(
                f"{file.uri}: {name} has rank {len(tensor)} and alpha {strength * len(tensor):g}: the official layout "
                "has no alpha, so that its strength would change"
            )
