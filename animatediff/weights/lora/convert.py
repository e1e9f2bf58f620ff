"""MotionLoRAs and domain adapters from the official layout to diffusers' and back."""

import re
from collections.abc import Mapping
from typing import Literal

from animatediff.errors import UserError
from animatediff.weights.identify import weights_file
from animatediff.weights.layouts.architectures import meta_modules
from animatediff.weights.layouts.motion import from_official, to_official
from animatediff.weights.lora import module_scales
from animatediff.weights.lora.lora_file import check_factor, open_lora, split_factor_key
from animatediff.weights.lora.module_index import ModuleIndex, ModuleRef
from animatediff.weights.reading.tensors import TensorFile, save_tensors

_PEFT_FACTORS = {"down": "A", "up": "B"}
# What the official layout and diffusers' both have names for: the projections of the spatial and temporal transformers.
_PROJECTION = re.compile(r"(?:down|mid|up)_block.*\.transformer_blocks\.\d+\.(?:attn\d+|ff)\..+")
_KOHYA = ("lora_", "lycoris_")


def convert(uri: str, out_uri: str, *, to: Literal["official", "diffusers"]) -> None:
    """Write a MotionLoRA or domain adapter under another layout's names; the factors stay as they are, bit for bit.

    Args:
        uri: in the official layout (attention processors' names), MotionDirector's, diffusers' or peft's; a domain
            adapter in kohya's as well.
        out_uri: the `.safetensors` file, written atomically.
        to: the official layout, or diffusers' (`AnimateDiffPipeline.load_lora_weights`).

    Raises:
        UserError: the file is another's, holds a key that the layouts have no name for, or an alpha that is not the
            rank: what is written has none.
    """
    file = open_lora(uri)
    weights_file.expect_family(file, {"motion_lora", "domain_adapter", "lora"})
    paths = _paths_in_diffusers(file)
    _check_scales_are_one(file, paths)
    factors = {
        _converted(key, paths, to, uri): tensor for key, tensor in file.tensors.items() if not key.endswith(".alpha")
    }
    metadata = {name: text for name, text in file.metadata.items() if name != module_scales.METADATA_KEY}
    save_tensors(out_uri, factors, metadata)


def _converted(key: str, paths: Mapping[str, str], to: Literal["official", "diffusers"], uri: str) -> str:
    name, factor = split_factor_key(key) or (key, "")
    path = paths[name]
    if factor not in _PEFT_FACTORS or not _PROJECTION.fullmatch(path):
        raise UserError(f"{uri}: neither layout has a name for {key}: it is no MotionLoRA or domain adapter of theirs")
    if to == "diffusers":
        return f"unet.{path}.lora_{_PEFT_FACTORS[factor]}.weight"
    official = to_official(path, "diffusers") or path
    parent, _, last = official.removesuffix(".0").rpartition(".")
    return f"{parent}.processor.{last}_lora.{factor}.weight"


def _paths_in_diffusers(file: TensorFile) -> dict[str, str]:
    """Each module's path, by its name in the file.

    kohya's names have underscores for dots: only the names of the UNet tell which are which.
    """
    names = {(split_factor_key(key) or (key, ""))[0] for key in file.tensors}
    flat = {name for name in names if name.startswith(_KOHYA)}
    paths = {name: _path_in_diffusers(name) for name in names - flat}
    if flat:
        module_index = ModuleIndex({"unet": meta_modules("sd1")["unet"].state_dict()}, is_motion_lora=False)
        for name in flat:
            found = module_index.find(name)
            if not found:
                raise UserError(
                    f"{file.uri} is in kohya's layout, which catalogs take as it is: it needs no conversion"
                )
            paths[name] = found[0].path
    return paths


def _path_in_diffusers(name: str) -> str:
    path = from_official(re.sub(r"^(?:base_model\.model\.)?(?:unet\.)*", "", name), "diffusers")
    return re.sub(r"\.to_out$", ".to_out.0", path.replace(".processor.", "."))


def _check_scales_are_one(file: TensorFile, paths: Mapping[str, str]) -> None:
    peft_config = module_scales.read_peft_config(file, "unet")
    for key, tensor in file.tensors.items():
        name, factor = split_factor_key(key) or ("", "")
        check_factor(tensor, factor, f"{file.uri}: {key}")
        if factor != "down":
            continue
        alpha = file.tensors.get(f"{name}.alpha")
        try:
            scale = module_scales.module_scale(
                {} if alpha is None else {"alpha": alpha}, len(tensor), peft_config, ModuleRef("unet", paths[name])
            )
        except ValueError as error:
            raise UserError(f"{file.uri}: {name}: {error}") from error
        if scale != 1:
            raise UserError(
                f"{file.uri}: {name} has rank {len(tensor)} and alpha {scale * len(tensor):g}: converted files have "
                "no alpha, so that its strength would change; catalogs take the file as it is"
            )
