"""Weights files from one layout to another: which converter is for which family."""

from collections.abc import Callable
from typing import Literal

from animatediff import storage
from animatediff.errors import UserError
from animatediff.weights import checkpoints, lora_convert, motion_modules
from animatediff.weights.identify import Identity, identify_uri
from animatediff.weights.identify_words import name

Layout = Literal["official", "diffusers"]


def convert(uri: str, out_uri: str, *, to: Layout) -> Identity:
    """Write a motion module, MotionLoRA, domain adapter or single-file checkpoint in another layout.

    Args:
        uri: the file, or the folder of a diffusers `MotionAdapter`.
        out_uri: the file to write; of a motion module or a checkpoint `to` diffusers, the folder.
        to: whose layout to write.

    Returns:
        What was written.

    Raises:
        UserError: there is something at `out_uri` already, or the input is of another family or cannot be read.
    """
    found = identify_uri(uri)
    write = _writer(found, to)
    if storage.exists(out_uri):
        raise UserError(f"there is something at {out_uri} already, and it is left alone: name a new file or folder")
    write(uri, out_uri)
    return identify_uri(out_uri)


def _writer(found: Identity, to: Layout) -> Callable[[str, str], object]:
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
