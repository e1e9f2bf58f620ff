"""Weights files from one layout to another: which converter is for which family."""

from collections.abc import Callable
from typing import Literal

from animatediff import storage
from animatediff.errors import UserError
from animatediff.weights import checkpoints, motion_modules
from animatediff.weights.identify.messages import name
from animatediff.weights.identify.weights_file import WeightsIdentity, identify_uri
from animatediff.weights.lora import convert as lora_convert

Layout = Literal["official", "diffusers"]


def convert(uri: str, out_uri: str, *, to: Layout) -> WeightsIdentity:
    """Write a motion module, MotionLoRA, domain adapter or single-file checkpoint in another layout.

    Args:
        uri: the file, or the folder of a diffusers `MotionAdapter`.
        out_uri: the `.safetensors` file to write; of a motion module or a checkpoint `to` diffusers, the folder. On a
            disk it is there whole or not at all.
        to: whose layout to write.

    Returns:
        What was written.

    Raises:
        UserError: there is something at `out_uri` already, or the input is of another family or cannot be read.
    """
    if storage.exists(out_uri):
        raise UserError(f"there is something at {out_uri} already, and it is left alone: name a new file or folder")
    found = identify_uri(uri)
    write = _writer(found, to)
    _check_name(out_uri, is_folder=to == "diffusers" and found.family in ("motion_module", "checkpoint"))
    with storage.staged(out_uri) as draft:
        write(uri, draft)
    return identify_uri(out_uri)


def _check_name(out_uri: str, *, is_folder: bool) -> None:
    if out_uri.endswith(".safetensors") == is_folder:
        wanted = "a folder, not a .safetensors file" if is_folder else "a file whose name ends with .safetensors"
        raise UserError(f"what is to be written is {wanted}: {out_uri} is not")


def _writer(found: WeightsIdentity, to: Layout) -> Callable[[str, str], object]:
    match found.family:
        case "motion_module":
            return lambda uri, out_uri: motion_modules.convert(uri, out_uri, to=to)
        case "motion_lora" | "domain_adapter":
            return lambda uri, out_uri: lora_convert.convert(uri, out_uri, to=to)
        case "lora" if found.layout == "diffusers attention processors":  # a domain adapter of another rank
            return lambda uri, out_uri: lora_convert.convert(uri, out_uri, to=to)
        case "checkpoint" if to == "official":
            raise UserError(f"{found.uri} is {name(found)}: checkpoints are converted to diffusers' layout only")
        case "checkpoint" if found.layout == "diffusers":
            raise UserError(f"{found.uri} is {name(found)} in diffusers' layout already: use it as it is")
        case "checkpoint":
            return checkpoints.to_diffusers
        case "lora" | "textual_inversion" | "vae":
            raise UserError(f"{found.uri} is {name(found)}: it needs no conversion, catalogs take it as it is")
        case _:
            raise UserError(
                f"{found.uri} is {name(found)}: only motion modules, MotionLoRAs, domain adapters and checkpoints are "
                "converted"
            )
