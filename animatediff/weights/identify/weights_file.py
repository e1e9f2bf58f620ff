"""What a weights file is, told from its content."""

import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error
from animatediff.weights.identify import lora as identify_lora
from animatediff.weights.identify import model as identify_model
from animatediff.weights.identify.base import text_width
from animatediff.weights.identify.messages import mismatch_reason
from animatediff.weights.identify.metadata import printable, read_metadata
from animatediff.weights.layouts.families import (
    Base,
    Family,
    FileContents,
    PartialIdentity,
    WeightsIdentity,
    find_rule,
    is_lora,
)
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.scaled import is_scale
from animatediff.weights.reading.tensors import TensorFile, open_tensors

__all__ = ["Base", "Family", "WeightsIdentity", "expect_family", "identify", "identify_uri"]

# Position tables, scales, copies, and the constants that trainers save with the weights.
_NOT_TRAINED = re.compile(
    r"pos_encoder\.|pos_embed\.pe$|\.(?:alpha|scalar)$|position_ids$|^model_ema\.|^denoiser\.|^string_to_token\."
)
_MOTION = re.compile(r"motion_modules|temporal_attentions")
_CONTROL_MODEL = re.compile(r"^control_model\.")
_SHARD = re.compile(r"-\d+-of-\d+\.\w+$")
_MAX_ALPHA = 1e12  # Python's whole numbers go further than can be shown
# Of a diffusers pipeline's folder.
_PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "motion_adapter")


def identify(file: TensorFile) -> WeightsIdentity:
    """Tell a file's family and what else its names, shapes and metadata say; of its values only alphas are read.

    Raises:
        UserError: names or numbers in it are of a kind that no file has.
    """
    with any_error_as_user_error(f"cannot tell what {file.uri} is"):
        return _identified(file)


def _identified(file: TensorFile) -> WeightsIdentity:
    contents = FileContents(file)
    found = _describe(contents)
    if found.text_width is None:
        found = found._replace(text_width=text_width(contents))
    trained = list(_trained(contents, found.family))
    return WeightsIdentity(
        uri=file.uri,
        **found._asdict(),
        dtype="+".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in trained})) or None,
        parameters=sum(tensor.numel() for tensor in trained),
        metadata=read_metadata(file),
    )


def identify_uri(uri: str) -> WeightsIdentity:
    """Tell what a file is, its SHA-256 too, or what a folder is: diffusers' of a model or a part, or PEFT's.

    Raises:
        UserError: there is nothing, it cannot be read, or the folder holds no weights.
    """
    _refuse_collection(uri)
    path = local_copy(uri)
    try:
        if path.is_dir():
            return _identify_folder(path, uri)
        found = identify(open_tensors(uri))
        with path.open("rb") as file:
            return found.model_copy(update={"sha256": hashlib.file_digest(file, "sha256").hexdigest()})
    except OSError as error:
        raise UserError(f"cannot read {uri}: {error.strerror or error}") from error


def expect_family(file: TensorFile, families: Collection[Family], *, base: Base | None = None) -> WeightsIdentity:
    """Return the file's identity, if it is of one of `families` and not for another base than `base`.

    A checkpoint that is no text-to-image model is refused as well.

    Raises:
        UserError: it is not; the line says what it is and where it belongs.
    """
    if _SHARD.search(file.uri):
        raise UserError(f"{file.uri} is one of several files of a model: name the folder that they are in")
    found = identify(file)
    if reason := mismatch_reason(found, set(families), base):
        raise UserError(f"{file.uri} {reason}")
    return found


def _describe(contents: FileContents) -> PartialIdentity:
    rule = find_rule(contents)
    if rule is None:
        found = identify_model.describe_unnamed(contents)
        names = ", ".join(printable(name, 60) for name in list(contents.shapes)[:3])
        return found._replace(note=f"it has names such as {names}") if found.family == "unknown" else found
    if is_lora(rule.family):
        return identify_lora.describe(rule.family, contents)
    return identify_model.describe(rule, contents)


def _trained(contents: FileContents, family: Family) -> Iterator[Tensor]:
    whole_unet = family == "motion_module" and contents.has(r"\.resnets\.")
    # An averaged copy counts where there is nothing that it is a copy of.
    in_checkpoint = family == "controlnet" and contents.has(_CONTROL_MODEL.pattern)
    only_ema = family == "checkpoint" and not contents.has(r"^model\.diffusion_model\.")
    for name, tensor in contents.tensors.items():
        is_counted = not _NOT_TRAINED.search(name) or (only_ema and name.startswith("model_ema.diffusion_model"))
        if not tensor.is_floating_point() or not is_counted or is_scale(name):
            continue
        # The noise schedule lies in a checkpoint under names without a dot.
        if (family == "checkpoint" and "." not in name) or (whole_unet and not _MOTION.search(name)):
            continue
        if in_checkpoint and not _CONTROL_MODEL.search(name):
            continue
        yield tensor


def _refuse_collection(uri: str) -> None:
    """Refuse a remote folder of several weights files, before anything of it is fetched."""
    if storage.is_local(uri):
        return
    files = [name for name in storage.list_files(uri) if name.endswith((".safetensors", ".ckpt", ".pt", ".bin"))]
    if len({_variant(Path(name)) for name in files}) < len([name for name in files if "-of-" not in name]):
        raise UserError(f"{uri} is a folder of {len(files)} weights files: name one of them, such as {files[0]}")


def _identify_folder(folder: Path, uri: str) -> WeightsIdentity:
    parts = {part: found for part in _PARTS if (found := _identify_weights(folder / part, uri))}
    if not parts:
        if found := _identify_weights(folder, uri):
            return found
        raise UserError(f"{uri} is a folder without weights: name a file, or a folder that diffusers or PEFT wrote")
    network = parts.get("unet") or parts.get("transformer")
    pipeline = _read_json(folder / "model_index.json").get("_class_name")
    needed = ("vae", "text_encoder", *(("text_encoder_2",) if network and network.base == "sdxl" else ()))
    missing = [f"no {part}" for part in needed if part not in parts]
    return WeightsIdentity(
        uri=uri,
        family="checkpoint",
        version=network and network.version,
        layout="diffusers",
        base=network and network.base,
        text_width=network and network.text_width,
        dtype="+".join(sorted({part.dtype for part in parts.values() if part.dtype})) or None,
        parameters=sum(part.parameters for part in parts.values()),
        metadata={"pipeline": printable(pipeline)} if isinstance(pipeline, str) else {},
        note=", ".join(missing) or None,
    )


def _identify_weights(folder: Path, uri: str) -> WeightsIdentity | None:
    """Identify the weights directly in a folder; None where there are none."""
    files = [open_tensors(str(path)) for path in _weights_files(folder)]
    if not files:
        return None
    tensors = {name: tensor for file in files for name, tensor in file.tensors.items()}
    found = identify(TensorFile(uri, tensors, files[0].metadata))
    alpha = _read_json(folder / "adapter_config.json").get("lora_alpha")
    is_number = isinstance(alpha, int | float) and abs(alpha) < _MAX_ALPHA
    return found.model_copy(update={"alpha": f"{alpha:g}"}) if is_number else found


def _weights_files(folder: Path) -> list[Path]:
    """Return one file, or the shards of one; of several copies the one without a variant (`fp16`) in its name.

    Raises:
        UserError: the folder is a collection of files.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    files = [path for path in files if _variant(path) == min(map(_variant, files))]
    if len(files) > 1 and not all("-of-" in path.name for path in files):
        raise UserError(f"{folder} is a folder of {len(files)} weights files: name one of them, such as {files[0]}")
    return files


def _variant(path: Path) -> str:
    """Return the `fp16` of `model.fp16.safetensors` and of `model.fp16-00001-of-00002.safetensors`."""
    return ".".join(path.name.split(".")[1:-1]).partition("-")[0]


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, str(path)) if path.is_file() else {}
