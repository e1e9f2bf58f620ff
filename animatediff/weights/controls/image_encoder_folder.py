"""The image encoder of IP-Adapters: a CLIP vision model's folder, as transformers writes it."""

from pathlib import Path

import torch
from transformers import CLIPVisionModelWithProjection

from animatediff.errors import UserError, any_error_as_user_error
from animatediff.models.image_prompt.image_encoder import ImageEncoder
from animatediff.weights import base_configs
from animatediff.weights.controls.image_encoder_place import find_folder
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.part_files import weights_files


def read(uri: str) -> ImageEncoder:
    """Return the image encoder in a folder, float32, frozen, in evaluation mode.

    Args:
        uri: as for `find_folder`.

    Raises:
        UserError: as `open_folder` says, or the weights are not those of the config's model.
    """
    encoder, folder = _opened(uri)
    half = {"variant": "fp16"} if all(".fp16" in file.name for file in weights_files(folder)) else {}
    with any_error_as_user_error(f"cannot read {encoder.name}"):
        model, loaded = CLIPVisionModelWithProjection.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **half
        )
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(map(str, loaded[problem])):
            raise UserError(f"{encoder.name} has {len(names)} {problem.replace('_', ' ')}, such as {names[0]}")
    return ImageEncoder(model.eval().requires_grad_(False), encoder.name)


def open_folder(uri: str) -> ImageEncoder:
    """Return the image encoder in a folder on the meta device, for checks: no weight was read.

    Args:
        uri: as for `find_folder`.

    Raises:
        UserError: there is no such folder, it has no weights, or its config is not that of a CLIP vision model.
    """
    return _opened(uri)[0]


def _opened(uri: str) -> tuple[ImageEncoder, Path]:
    folder = local_copy(find_folder(uri))
    name = f"the image encoder {uri}"
    source = f"the config.json of {name}"
    num_bytes = base_configs.check_files(folder, name)
    config = read_json(folder / "config.json", source)
    if config.get("model_type") != "clip_vision_model":
        raise UserError(f"{source} is not that of a CLIP vision model: its model_type is {config.get('model_type')}")
    if not weights_files(folder):
        raise UserError(f"{name} has no weights: a model.safetensors is needed beside its config.json")
    model = base_configs.build_on_meta(CLIPVisionModelWithProjection, config, source, weights_bytes=num_bytes)
    return ImageEncoder(model, name), folder
