"""Personalised Stable Diffusion checkpoints: one file in the original (LDM) layout, or diffusers' files and folders.

The base's own parameter names decide what is looked for. So what a checkpoint lacks and what it has too much are both
named, and no module is built to read one.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusers import DDIMScheduler
from torch import Tensor, nn

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error
from animatediff.weights import prediction
from animatediff.weights.base_facts import ZEROES_EMPTY
from animatediff.weights.identify.base import BASE_OF_TEXT_WIDTH
from animatediff.weights.identify.messages import model_name
from animatediff.weights.identify.weights_file import expect_family
from animatediff.weights.layouts import ldm
from animatediff.weights.layouts.architectures import PARTS, meta_modules, sdxl_or_sd1
from animatediff.weights.layouts.fitting import PartTensors, take_part
from animatediff.weights.motion_file import TRAINED_FILE, trained_file
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.part_files import WEIGHTS_FILES, weights_files
from animatediff.weights.reading.scaled import dequantised
from animatediff.weights.reading.tensors import TensorFile, open_tensors, save_tensors

State = dict[str, Tensor]
# Of 1.x as of SDXL, with the options of their schedulers' configs.
_STABLE_DIFFUSIONS_BETAS: Mapping[str, Any] = {
    **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    **{"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
}
_HASHED_FOLDERS = {*PARTS, "tokenizer", "tokenizer_2"}
# What a LoRA or a motion module is read from where it is given as a folder, and what decides its strength or shape.
_HASHED_FILES = ("adapter_", "pytorch_lora_weights.", "diffusion_pytorch_model.", "config.json", TRAINED_FILE)
# What is opened in a folder by its name, here or as a LoRA.
_OPENED_BY_NAME = ("adapter_", "pytorch_lora_weights.", "diffusion_pytorch_model.", "model.", "pytorch_model.")
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load(uri: str, base: Mapping[str, nn.Module]) -> dict[str, State]:
    """Return the state dicts of the parts that a checkpoint has, each complete for the base's part.

    Args:
        uri: one of
            a `.safetensors` or `.ckpt` file in the original layout: a whole model, some of its parts, or one alone;
            a diffusers weights file of one part;
            a diffusers folder with any of `PARTS` inside, or with one part's weights.
        base: the base's modules by the names in `PARTS`; others are left alone. Only names and shapes are read, so that
            they may be on the meta device.

    Returns:
        The tensors in the file's precision, as views of the mapped file: they must not be written to. What the file
        has beside the known parts (optimizer, loss, schedule) is left out.

    Raises:
        UserError: the file cannot be read, holds no Stable Diffusion weights, or does not fit the base. A VAE alone
            fits both Stable Diffusion 1.x and SDXL: nothing in it tells which it was made for.
    """
    with any_error_as_user_error(f"cannot read checkpoint {uri}"):
        return _loaded(uri, base)


def _loaded(uri: str, base: Mapping[str, nn.Module]) -> dict[str, State]:
    wanted = {part: module.state_dict() for part, module in base.items() if part in PARTS}
    path = local_copy(uri)
    found = _read_folder(path, uri, wanted) if path.is_dir() else _read_file(open_tensors(uri), wanted)
    if not found:
        raise UserError(f"checkpoint {uri} holds no Stable Diffusion weights (no {', '.join(wanted)})")
    if "unet" in found:
        _check_base(found["unet"].tensors, wanted["unet"], uri)
    return {part: take_part(found[part], wanted[part], f"the {part} of checkpoint {uri}") for part in found}


def to_diffusers(uri: str, out_uri: str) -> list[str]:
    """Write a single-file checkpoint as diffusers folders (`unet/`, `vae/`, ...) of config and weights, as precise.

    A tokenizer cannot come from the file, nor a scheduler but of one that says what it predicts, whose `scheduler/`
    says the same: a whole pipeline needs those of its base beside the folders, a catalog's `checkpoint` does not.

    Args:
        uri: the file, of Stable Diffusion 1.x or SDXL.
        out_uri: the folder; each file in it appears whole or not at all.

    Returns:
        The parts that were written.

    Raises:
        UserError: the file cannot be read or is of another kind, or the storage cannot be written to.
    """
    file = open_tensors(uri)
    kind, predicted = expect_family(file, {"checkpoint"}).base, prediction.of_file(file)
    if kind != "sd1" and kind != "sdxl":
        raise UserError(f"{uri} is neither of Stable Diffusion 1.x nor of SDXL: no other architecture is known here")
    modules: Mapping[str, Any] = meta_modules(kind)
    parts = load(uri, modules)
    for part, state in parts.items():
        is_text_encoder = part.startswith("text_encoder")
        name = "model.safetensors" if is_text_encoder else "diffusion_pytorch_model.safetensors"
        config = modules[part].config if is_text_encoder else modules[part]
        save_tensors(storage.join(out_uri, part, name), state, {"format": "pt"})
        storage.write_bytes(storage.join(out_uri, part, "config.json"), config.to_json_string().encode())
    if predicted is not None:
        scheduler = DDIMScheduler(
            **_STABLE_DIFFUSIONS_BETAS,
            prediction_type=predicted.prediction_type,
            rescale_betas_zero_snr=predicted.zero_terminal_snr,
            timestep_spacing="trailing" if predicted.zero_terminal_snr else "leading",
        )
        storage.write_bytes(storage.join(out_uri, prediction.SCHEDULER_CONFIG), scheduler.to_json_string().encode())
    return list(parts)


def content_hash(uri: str) -> str:
    """SHA-256 of everything at `uri` that decides what its weights do.

    That is a file's bytes, and those of the config beside a file that peft wrote; of a diffusers folder what it holds
    of `PARTS` and the tokenizers, and where SDXL's index says that an empty negative prompt is not zeros, or the
    scheduler that the velocity is predicted, that; of the folder of a training run or of one of its checkpoints the
    motion module alone; of any other folder all weights and configs in it.

    Raises:
        UserError: there is nothing at `uri`, or it cannot be read.
    """
    path = local_copy(_file_of_training(uri) or uri)
    if path.is_dir():
        hashes = {file.relative_to(path).as_posix(): _file_hash(file) for file in _hashed_files(path)}
        hashes |= _said_of_empty_prompts(path) | _said_of_velocity(path)
    else:
        # The file alone was fetched; its config is found where the reader of LoRAs finds it.
        name, beside = posixpath.basename(uri), storage.beside(uri, "adapter_config.json")
        if not (name.startswith("adapter_model.") and storage.exists(beside)):
            return _file_hash(path)
        hashes = {"adapter_config.json": _file_hash(local_copy(beside)), name: _file_hash(path)}
    lines = (f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_of_training(uri: str) -> str | None:
    """Return the motion module in a folder that training wrote.

    None where other readers find something of theirs, too.
    """
    file = trained_file(uri)
    if file is None or any(storage.exists(storage.join(uri, part)) for part in sorted(_HASHED_FOLDERS)):
        return None
    others = [name for name in storage.list_files(uri) if name != TRAINED_FILE]
    return None if any(name.startswith(_OPENED_BY_NAME) for name in others) else file


def _hashed_files(folder: Path) -> list[Path]:
    parts = [file for name in _HASHED_FOLDERS for file in (folder / name).rglob("*") if file.is_file()]
    if parts:
        return parts + [file for file in folder.iterdir() if file.name.startswith(_HASHED_FILES) and file.is_file()]
    return [f for f in folder.rglob("*") if f.suffix in (".safetensors", ".bin", ".json") and f.is_file()]


def _said_of_empty_prompts(folder: Path) -> dict[str, str]:
    index = folder / "model_index.json"
    if not (folder / "text_encoder_2").is_dir() or not index.is_file():
        return {}
    is_usual = read_json(index, str(index)).get(ZEROES_EMPTY) is not False
    return {} if is_usual else {f"{index.name}: {ZEROES_EMPTY}": "false"}


def _said_of_velocity(folder: Path) -> dict[str, str]:
    try:
        said = prediction.of_folder(folder)
    except UserError:  # told by who reads it
        return {}
    return {prediction.SCHEDULER_CONFIG: str(said)} if said is not None and said.predicts_v else {}


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _read_file(file: TensorFile, wanted: Mapping[str, State]) -> dict[str, PartTensors]:
    expect_family(file, {"checkpoint", "vae"}, base=sdxl_or_sd1(wanted["unet"]) if "unet" in wanted else None)
    return _parts(dequantised(file), wanted)


def _read_folder(folder: Path, uri: str, wanted: Mapping[str, State]) -> dict[str, PartTensors]:
    """Open a folder of parts; or one part's own folder, as VAEs are often published."""
    parts = [part for part in wanted if (folder / part).is_dir()]
    if not parts:
        return _parts(_tensors_in(folder), wanted)
    found = {part: _tensors_in(folder / part) for part in parts}
    for part, tensors in found.items():
        if not tensors:
            raise UserError(f"checkpoint {uri} has no weights in its {part}/: {WEIGHTS_FILES[0]} is missing there")
    return {part: _diffusers_part(part, tensors, wanted[part]) for part, tensors in found.items()}


def _tensors_in(folder: Path) -> State:
    return {
        name: tensor for file in weights_files(folder) for name, tensor in dequantised(open_tensors(str(file))).items()
    }


def _parts(tensors: Mapping[str, Tensor], wanted: Mapping[str, State]) -> dict[str, PartTensors]:
    """Return the parts that are among a file's tensors, whichever layout it has."""
    if all(name.startswith("vae.") for name in tensors):  # cut out of a whole model
        tensors = _without_prefix(tensors, "vae.")
    if "unet.conv_in.weight" in tensors:  # a diffusers pipeline in one file
        whole = {part: _without_prefix(tensors, f"{part}.") for part in wanted}
        return {part: _diffusers_part(part, own, wanted[part]) for part, own in whole.items() if own}
    parts = {part: ldm.part_of(tensors, part) for part in wanted}
    if "unet" in wanted:
        parts["unet"] = ldm.averaged_unet(tensors, wanted["unet"]) | parts["unet"]
    found = {part: PartTensors(own, ldm.sources(part, wanted[part])) for part, own in parts.items() if own}
    part = None if found else _diffusers_component(tensors, wanted)
    return {part: _diffusers_part(part, tensors, wanted[part])} if part else found


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _diffusers_component(tensors: Mapping[str, Tensor], wanted: Mapping[str, State]) -> str | None:
    """Which of the wanted parts a diffusers weights file is."""
    for part, mark in (("unet", "time_embedding.linear_1.weight"), ("vae", "decoder.mid_block.resnets.0.norm1.weight")):
        if mark in tensors:
            return part if part in wanted else None
    width = _width(tensors, "embeddings.token_embedding.weight")
    fitting = (part for part in wanted if width and width == _width(wanted[part], "embeddings.token_embedding.weight"))
    return next(fitting, None)


def _diffusers_part(part: str, tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> PartTensors:
    """Return a part's tensors by today's names; older files name the VAE's attention and the text encoder otherwise."""
    if part == "vae":
        return PartTensors(
            {_current_vae_name(name): tensor for name, tensor in tensors.items()},
            {name: ldm.Source(name) for name in wanted},
        )
    return PartTensors(
        {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()},
        {name: ldm.Source(name.removeprefix("text_model.")) for name in wanted},
    )


def _current_vae_name(name: str) -> str:
    return re.sub(
        r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)", lambda match: _OLD_VAE_ATTENTION[match[1]], name
    )


def _check_base(given: Mapping[str, Tensor], base: Mapping[str, Tensor], uri: str) -> None:
    kinds = _kind(given), _kind(base)
    if all(kinds) and kinds[0] != kinds[1]:
        raise UserError(f"checkpoint {uri} is {kinds[0]}, and the base is {kinds[1]}: a base of its own kind is needed")


def _kind(unet: Mapping[str, Tensor]) -> str | None:
    """Return what a UNet is for, told from the two widths and the one embedding in which the published ones differ."""
    channels = _width(unet, "conv_in.weight") or _width(unet, "input_blocks.0.0.weight")
    width = _width(unet, "attn2.to_k.weight")
    if not channels or not width:
        return None
    role = {4: "", 8: " instruct-pix2pix", 9: " inpainting"}.get(channels, f" {channels}-channel")
    if width in BASE_OF_TEXT_WIDTH:
        return model_name(BASE_OF_TEXT_WIDTH[width], role)
    is_sdxl = any(name.startswith(("add_embedding.", "label_emb.")) for name in unet)
    return f"{'an SDXL-like' if is_sdxl else 'a Stable-Diffusion-like'} ({width} wide text embeddings){role} model"


def _width(tensors: Mapping[str, Tensor], suffix: str) -> int:
    """Input width (the second dimension) of the first weight of that name; 0 where there is none."""
    return next((t.shape[1] for name, t in tensors.items() if name.endswith(suffix) and t.ndim > 1), 0)
