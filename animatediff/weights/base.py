"""A Stable Diffusion base model's components: from a diffusers folder, local, at a URI, or on the hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from animatediff import storage
from animatediff.errors import UserError, naming, one_line, refusing
from animatediff.weights import base_configs
from animatediff.weights.layouts.architectures import PARTS
from animatediff.weights.reading.files import local_copy, read_json

_CONFIGURED: dict[str, Any] = {**PARTS, "scheduler": DDIMScheduler}  # any scheduler's class reads any other's config
_FEWEST_TOKENS = 3  # a start, an end, and a word
_TAKEN_FOR_HUB = "there is no such folder, so it is taken for a hub id"


def resolve(base: str) -> str:
    """Return what diffusers can open: a local folder's path, or a hub id (`owner/name`) as it is.

    Raises:
        UserError: `base` is a path or URI with no model folder behind it.
    """
    looks_like_hub_id = "://" not in base and base.count("/") == 1 and not base.startswith((".", "/", "~"))
    if looks_like_hub_id and not Path(base).exists():
        return base
    with naming("base"):
        folder = local_copy(base)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"base {base} is no diffusers model folder: it has no model_index.json")
    return str(folder)


def load_config(base: str, part: str) -> dict[str, Any]:
    """Return the config of a part (`unet`, `vae`, `text_encoder`, `scheduler`), without its weights.

    Raises:
        UserError: the base has no such part, or its config cannot be read or used.
    """
    folder, name = resolve(base), "scheduler_config.json" if part == "scheduler" else "config.json"
    source = _config_of(base, part)
    if Path(folder).is_dir():
        config = read_json(Path(folder) / part / name, source)
    else:
        with refusing(f"cannot read {source}", reason):
            if part.startswith("text_encoder"):
                config = CLIPTextConfig.get_config_dict(folder, subfolder=part)[0]
            else:
                config = dict(_CONFIGURED[part].load_config(folder, subfolder=part))
    if part.startswith("text_encoder") and config.get("model_type") == "clip":  # of a whole CLIP
        config = config.get("text_config", config)
    if part != "scheduler":  # of which one word is read, and which may well say that a bound is infinite
        base_configs.check_values(config, source)
    return config


def check_part(base: str, part: str) -> None:
    """Refuse a base's part that cannot be built, or has more parameters than its files could hold; no weight is read.

    Raises:
        UserError: the line names the file, the field and its value.
    """
    folder = Path(resolve(base), part)
    num_bytes = base_configs.check_files(folder, storage.join(base, part)) if folder.is_dir() else None
    config = load_config(base, part)
    if num_bytes == 0:
        raise UserError(f"base {base} has no weights in its {part}/: copy the whole folder of the model")
    base_configs.build_on_meta(PARTS[part], config, _config_of(base, part), weights_bytes=num_bytes)


def _config_of(base: str, part: str) -> str:
    return f"the config of the {part} of base {base}"


def reason(error: BaseException) -> str:
    """Why a part could not be loaded, as the end of one line: of the hub's errors, what went wrong with the hub.

    diffusers and transformers tell every trouble with the hub as a config file that is missing; what they were told by
    its client is in the chain of the errors.
    """
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"{_TAKEN_FOR_HUB}: accept its licence on the hub and set HF_TOKEN"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"{_TAKEN_FOR_HUB}, and the hub has none for this user: mend the name or path, or set HF_TOKEN"
    if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in causes):
        offline = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else "the hub could not be reached"
        return (
            f"{_TAKEN_FOR_HUB}, but {offline} and the cache {HF_HUB_CACHE} has no copy: name a local folder, or point "
            "HF_HOME at a cache that was filled where there is a network"
        )
    return one_line(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def prediction_type(base: str) -> str:
    """Return what the base predicts, in diffusers' words.

    `epsilon`, as most do, where it has no scheduler that says it.
    """
    try:
        return str(load_config(base, "scheduler").get("prediction_type", "epsilon"))
    except UserError:
        return "epsilon"


def load_vae(base: str) -> AutoencoderKL:
    """Return the frozen VAE, float32, in evaluation mode.

    Raises:
        UserError: the base has none.
    """
    return _load(AutoencoderKL, base, "vae")


def load_unet(base: str) -> UNet2DConditionModel:
    """Return the frozen UNet, float32, in evaluation mode.

    Raises:
        UserError: the base has none.
    """
    return _load(UNet2DConditionModel, base, "unet")


def load_text_encoder(base: str) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Return the tokenizer and the frozen text encoder, float32.

    Raises:
        UserError: the base has none, or is an SDXL with two.
    """
    if _is_sdxl(base):
        raise UserError(f"base {base} is an SDXL model; clips are rendered with Stable Diffusion 1.x bases only")
    return _load_tokenizer(base, "tokenizer"), _load(CLIPTextModel, base, "text_encoder")


def load_tokenizer(base: str) -> tuple[CLIPTokenizer, int]:
    """Return the tokenizer of the (first) text encoder, and how many tokens are read of a text, without start and end.

    Raises:
        UserError: the base has none.
    """
    tokenizer = _load_tokenizer(base, "tokenizer")
    config = CLIPTextConfig.from_dict(load_config(base, "text_encoder"))
    # A tokenizer saved without its length claims 10^30.
    return tokenizer, min(tokenizer.model_max_length, config.max_position_embeddings) - 2


def load_text_encoders(base: str) -> dict[str, tuple[CLIPTokenizer, CLIPTextModel | CLIPTextModelWithProjection]]:
    """Return the tokenizers and the frozen text encoders, float32, by part.

    `text_encoder`, and SDXL's `text_encoder_2`.

    Raises:
        UserError: the base has none.
    """
    found = {"text_encoder": (_load_tokenizer(base, "tokenizer"), _load(CLIPTextModel, base, "text_encoder"))}
    if _is_sdxl(base):
        second = _load(CLIPTextModelWithProjection, base, "text_encoder_2")
        found["text_encoder_2"] = (_load_tokenizer(base, "tokenizer_2"), second)
    return found


def _is_sdxl(base: str) -> bool:
    index = Path(resolve(base)) / "model_index.json"
    if index.is_file():
        return "text_encoder_2" in read_json(index, str(index))
    return load_config(base, "unet").get("addition_embed_type") is not None  # a hub id


def _load(cls: Any, base: str, part: str) -> Any:
    folder = resolve(base)
    if Path(folder).is_dir() and not (Path(folder) / part).is_dir():
        raise UserError(f"base {base} has no {part}: a folder {storage.join(base, part)} is needed")
    if cls is PARTS.get(part):
        check_part(base, part)
    elif Path(folder).is_dir():
        base_configs.check_files(Path(folder, part), storage.join(base, part))
    with refusing(f"cannot load the {part} of base {base}", reason):
        component = cls.from_pretrained(folder, subfolder=part, **_variant(Path(folder) / part))
    # transformers leaves weights in the precision of the file, diffusers does not.
    return component.float().eval().requires_grad_(False) if isinstance(component, torch.nn.Module) else component


def _load_tokenizer(base: str, part: str) -> CLIPTokenizer:
    tokenizer = _load(CLIPTokenizer, base, part)
    for field in ("model_max_length", "bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(tokenizer, field)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value < (_FEWEST_TOKENS if "max" in field else 0)
        ):
            raise UserError(
                f"the {part} of base {base} has the {field} {str(value)[:60]}: copy the folder of its model anew"
            )
    return tokenizer


def _variant(folder: Path) -> dict[str, str]:
    """Return what diffusers must be told of a part whose weights are there in half precision alone."""
    weights = [file.name for file in folder.glob("*") if file.suffix in (".safetensors", ".bin")]
    return {"variant": "fp16"} if weights and all(".fp16" in name for name in weights) else {}
