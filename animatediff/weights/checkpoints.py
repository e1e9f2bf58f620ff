"""Personalised Stable Diffusion checkpoints: a diffusers folder, or one LDM `.safetensors` file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel

from animatediff.errors import UserError
from animatediff.weights.files import local_copy

State = dict[str, Tensor]
PARTS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
"""What a checkpoint may replace of a base, and its class."""
_HASHED_FOLDERS = {*PARTS, "tokenizer"}


def load(uri: str, base: Mapping[str, nn.Module]) -> dict[str, State]:
    """The state dicts of the parts that a checkpoint has, each complete for the base's part.

    Args:
        uri: a diffusers folder with any of `PARTS` inside, or an LDM file (`model.diffusion_model...`).
        base: the base's modules by the names in `PARTS`; only their configs and shapes are read.

    Raises:
        UserError: the file cannot be read, holds no Stable Diffusion weights, or does not fit the base.
    """
    path = local_copy(uri)
    parts = _load_folder(path, uri) if path.is_dir() else _load_single_file(path, uri, base)
    if not parts:
        raise UserError(f"checkpoint {uri} holds no Stable Diffusion weights (no {', '.join(PARTS)})")
    return {
        part: _fit(state, base[part].state_dict(), f"the {part} of checkpoint {uri}") for part, state in parts.items()
    }


def read_safetensors(path: Path, uri: str) -> State:
    """All tensors of a file.

    Raises:
        UserError: it is no safetensors file, or cut short.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{uri} is no .safetensors file: convert it first, as pickled files can run code when read")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{uri} is not a whole safetensors file: {error}") from error


def content_hash(uri: str) -> str:
    """SHA-256 of a weights file, or of what a model folder holds of `PARTS` and the tokenizer.

    Raises:
        UserError: there is nothing at `uri`.
    """
    path = local_copy(uri)
    if path.is_file():
        return _file_hash(path)
    files = sorted(file for name in _HASHED_FOLDERS for file in (path / name).rglob("*") if file.is_file())
    lines = (f"{file.relative_to(path).as_posix()} {_file_hash(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_folder(folder: Path, uri: str) -> dict[str, State]:
    try:
        return {
            part: cls.from_pretrained(str(folder), subfolder=part, local_files_only=True).state_dict()
            for part, cls in PARTS.items()
            if (folder / part).is_dir()
        }
    except Exception as error:
        raise UserError(f"cannot load checkpoint {uri}: {' '.join(str(error).split())[:300]}") from error


def _load_single_file(path: Path, uri: str, base: Mapping[str, Any]) -> dict[str, State]:
    checkpoint = read_safetensors(path, uri)
    try:
        parts = {
            "unet": convert_ldm_unet_checkpoint(checkpoint, base["unet"].config),
            "vae": convert_ldm_vae_checkpoint(checkpoint, base["vae"].config),
            "text_encoder": convert_ldm_clip_checkpoint(checkpoint),
        }
    except (KeyError, IndexError, AttributeError) as error:
        raise UserError(f"checkpoint {uri} has not the base's architecture (at {error})") from error
    return {part: state for part, state in parts.items() if state}


def _fit(state: State, base: State, what: str) -> State:
    """`state` under the base's own names.

    Old and new transformers disagree about a `text_model.` before the text encoder's names.
    """
    found = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    fitted = {}
    for name, tensor in base.items():
        given = found.get(name.removeprefix("text_model."))
        if given is None:
            raise UserError(f"{what} lacks {name}: it was not made from this base's architecture")
        if given.shape != tensor.shape:
            raise UserError(f"{what} does not fit the base: {name} is {list(given.shape)}, not {list(tensor.shape)}")
        fitted[name] = given
    return fitted
