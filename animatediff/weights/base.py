"""A Stable Diffusion base model's components: from a diffusers folder, local, at a URI, or on the hub."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error
from animatediff.weights import base_configs
from animatediff.weights.base_facts import BaseFacts, config_name, load_config, resolve
from animatediff.weights.layouts.architectures import PARTS
from animatediff.weights.reading.hub import reason

_FEWEST_TOKENS = 3  # a start, an end, and a word


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
    _check_builds(part, json.dumps(config, sort_keys=True), config_name(base, part), num_bytes)


@lru_cache(maxsize=64)  # a catalog has many motion modules for one base
def _check_builds(part: str, config: str, name: str, num_bytes: int | None) -> None:
    base_configs.build_on_meta(PARTS[part], json.loads(config), name, weights_bytes=num_bytes)


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
    if BaseFacts(base).architecture == "sdxl":
        raise UserError(f"base {base} is an SDXL model, which has two text encoders: one that has one is needed")
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
    if BaseFacts(base).architecture == "sdxl":
        second = _load(CLIPTextModelWithProjection, base, "text_encoder_2")
        found["text_encoder_2"] = (_load_tokenizer(base, "tokenizer_2"), second)
    return found


def _load(cls: Any, base: str, part: str) -> Any:
    folder = resolve(base)
    if Path(folder).is_dir() and not (Path(folder) / part).is_dir():
        raise UserError(f"base {base} has no {part}: a folder {storage.join(base, part)} is needed")
    if cls is PARTS.get(part):
        check_part(base, part)
    elif Path(folder).is_dir():
        base_configs.check_files(Path(folder, part), storage.join(base, part))
    with any_error_as_user_error(f"cannot load the {part} of base {base}", reason), base_configs.NoValuesOnMeta():
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
