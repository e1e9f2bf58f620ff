"""Motion modules as files: read in every layout that users have, written in the official and the diffusers layout.

diffusers takes the statistics of the motion module's GroupNorm over all frames of a clip, whatever the version; v1, v2
and v3 were trained with each frame's own. So the same weights move a little differently there.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error
from animatediff.models.config import MotionConfig
from animatediff.models.control.picture_convolution import PictureConvolution
from animatediff.models.motion_module import sinusoidal_positions
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.layouts import motion as layouts
from animatediff.weights.layouts.few_step import FewStepSampling
from animatediff.weights.layouts.motion import Layout
from animatediff.weights.layouts.own_metadata import own_metadata
from animatediff.weights.motion_file import MotionFile, Places, find_places, open_file
from animatediff.weights.reading.part_files import MODEL_FILES
from animatediff.weights.reading.tensors import save_tensors

__all__ = ["MotionFile", "attach", "check_fits", "convert", "expect_no_picture", "open_file", "read", "write"]


def read(uri: str) -> MotionModules:
    """Return the motion modules in a file or a diffusers folder, float32.

    Raises:
        UserError: as `open_file` and `expect_no_picture` say, or there are NaN or infinite numbers among the weights.
    """
    file = open_file(uri)
    expect_no_picture(file)
    return file.build()


def expect_no_picture(file: MotionFile) -> None:
    """Refuse PIA's motion module.

    Raises:
        UserError: it is PIA's.
    """
    if file.first_convolution is not None:
        raise UserError(
            f"{file.uri} is a motion module of PIA, which reads a picture through a first convolution of its own: "
            "clips are rendered with it, as motion_module of a catalog, and nothing else is done with it"
        )


def attach(unet: UNet2DConditionModel, motion: MotionFile) -> MotionUNet:
    """Return a motion UNet of a base and a file's motion modules, float32.

    Args:
        unet: the base's. PIA's first convolution takes the place of its own, where it reads latents.
        motion: a file that fits it.

    Raises:
        UserError: there are NaN or infinite numbers among the weights.
    """
    motion_unet = MotionUNet(unet, motion.build())
    if motion.first_convolution is not None:
        weight, bias = (tensor.float() for tensor in motion.first_convolution)
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise UserError(f"{motion.uri}: its conv_in has NaN or infinite values, the file is broken")
        channels = unet.config.in_channels
        of_picture = PictureConvolution(channels, len(bias))
        of_picture.load_state_dict({"weight": weight[:, channels:]})
        unet.conv_in.load_state_dict({"weight": weight[:, :channels], "bias": bias})
        motion_unet.picture_convolution = of_picture
    return motion_unet


def write(
    uri: str,
    motion: MotionModules | MotionFile,
    *,
    to: Literal["official", "diffusers"] = "official",
    schedule: Mapping[str, Any] | None = None,
    few_step: FewStepSampling | None = None,
) -> None:
    """Write motion modules in their own precision, with their config in the metadata: `read` gives them back exactly.

    Args:
        uri: the official layout's `.safetensors` file, or the folder for diffusers.
        motion: what to write.
        to: `official`: as guoyww/AnimateDiff, with the position tables by which other programs know a motion module.
            `diffusers`: a folder that `diffusers.MotionAdapter.from_pretrained` opens.
        schedule: fields of the `NoiseSchedule` that it was trained with, and must be sampled with.
        few_step: what else it must be sampled with, where few steps are enough.

    Raises:
        UserError: diffusers has no such motion modules, or the storage cannot be written to.
    """
    state = motion.state_dict() if isinstance(motion, MotionModules) else motion.state
    settings = _adapter_config(uri, motion.config, find_places(state)) if to == "diffusers" else None
    tensors = {layouts.from_official(name, to): tensor for name, tensor in state.items()}
    if motion.config.use_positions:
        tensors |= _tables(motion.config, state, to)
    target = uri if settings is None else storage.join(uri, MODEL_FILES[0])
    save_tensors(target, tensors, own_metadata(motion.config, schedule, few_step))
    if settings is not None:
        storage.write_bytes(storage.join(uri, "config.json"), json.dumps(settings, indent=2).encode())


def convert(uri: str, out_uri: str, *, to: Literal["official", "diffusers"]) -> None:
    """Write a motion module file in another layout, in its own precision. Its weights pass from disk to disk.

    Args:
        uri: as for `open_file`.
        out_uri: a `.safetensors` file for `official`, a folder for `diffusers`.
        to: the layout, as for `write`.

    Raises:
        UserError: as `open_file` and `write` say, or `out_uri` is named for the other layout.
    """
    if out_uri.endswith(".safetensors") != (to == "official"):
        wanted = "a file whose name ends with .safetensors" if to == "official" else "a folder, not a .safetensors file"
        raise UserError(f"the {to} layout is {wanted}: {out_uri} is not")
    file = open_file(uri)
    expect_no_picture(file)
    write(out_uri, file, to=to, schedule=file.schedule, few_step=file.few_step)


def check_fits(motion: MotionFile, base_config: Mapping[str, Any], base: str) -> None:
    """Refuse a motion module that was made for another base. Only shapes are compared.

    Args:
        motion: the motion module.
        base_config: the config of the base's UNet.
        base: the base's name in messages.

    Raises:
        UserError: it does not fit, or the base is no Stable Diffusion 1.x or SDXL.
    """
    with any_error_as_user_error(f"base {base} cannot carry motion modules"):
        fitting = _fitting_state(json.dumps(dict(base_config), sort_keys=True), base, motion.config)
    if _shapes(motion.state) != _shapes(fitting):
        raise UserError(
            f"motion module {motion.uri} was made for another architecture than {base}: it is {motion.version}, for "
            f"down blocks of {find_places(motion.state)} channels, the base's are {find_places(fitting)}"
        )
    if motion.first_convolution is not None:
        kernel = base_config.get("conv_in_kernel", 3)
        own = (base_config["block_out_channels"][0], base_config["in_channels"], kernel, kernel)
        found = motion.first_convolution[0].shape
        if found != (own[0], 2 * own[1] + 1, *own[2:]):
            raise UserError(
                f"motion module {motion.uri} was made for another base than {base}: its first convolution is "
                f"{tuple(found)}, the base's {own}, beside which a picture takes {own[1] + 1} channels more"
            )


@lru_cache(maxsize=64)  # a catalog has many motion modules for one base
def _fitting_state(base_config: str, base: str, config: MotionConfig) -> Mapping[str, Tensor]:
    """Return what motion modules for a base hold, on the meta device.

    Args:
        base_config: the config of the base's UNet, as JSON.
        base: the base's name in messages.
        config: the motion modules'.
    """
    unet = build_on_meta(UNet2DConditionModel, json.loads(base_config), f"the config of the unet of base {base}")
    with torch.device("meta"):
        return MotionUNet(unet, config).motion.state_dict()


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _tables(config: MotionConfig, state: Mapping[str, Tensor], to: Layout) -> Iterator[tuple[str, Tensor]]:
    """Yield the position tables of a file, in the precision of the weights beside them."""
    end = "proj_in.weight"
    for name, tensor in state.items():
        if name.endswith(f".temporal_transformer.{end}"):
            block = f"{layouts.from_official(name, to).removesuffix(end)}transformer_blocks.0."
            owners = [f"attention_blocks.{i}.pos_encoder" for i in range(config.num_layers)]
            for owner in owners if to == "official" else ["pos_embed"]:
                yield f"{block}{owner}.pe", sinusoidal_positions(config.max_frames, len(tensor))[None].to(tensor.dtype)


def _adapter_config(uri: str, config: MotionConfig, places: Places) -> dict[str, Any]:
    """Return the `config.json` of diffusers' `MotionAdapter`."""
    regular = places.regular()
    problems = {
        f"{config.num_layers} temporal attentions in a motion module, it knows 2 only": config.num_layers != 2,
        "no frame positions": not config.use_positions,
        "attention to the caption": config.text_width is not None,
        "irregular numbers of motion modules in the blocks": (places.down, places.up) != (regular.down, regular.up),
    }
    if problem := next((problem for problem, is_so in problems.items() if is_so), None):
        raise UserError(f"cannot write {uri} for diffusers, which has no motion modules with {problem}")
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": [block[0] for block in places.down],
        "motion_layers_per_block": len(places.down[0]),
        "motion_max_seq_length": config.max_frames,
        "motion_norm_num_groups": config.norm_num_groups,
        "motion_num_attention_heads": config.num_heads,
        "use_motion_mid_block": config.use_mid_block,
    }
