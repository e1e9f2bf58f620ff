"""A ControlNet file or folder, in whatever layout it is: checked by names and shapes, its weights still on disk.

A ControlNet is a copy of its base's encoder, with an embedding of pictures before it and convolutions after its layers.
So the base's config tells what a file alone does not, such as the number of heads; the embedding's widths are its own.
"""

import inspect
import logging
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor

from animatediff.errors import UserError, any_error_as_user_error
from animatediff.models.control.control_net import ControlNet
from animatediff.weights.base_configs import build_on_meta, check_files
from animatediff.weights.identify.messages import name as name_of
from animatediff.weights.identify.weights_file import expect_family
from animatediff.weights.layouts import ldm
from animatediff.weights.layouts.fitting import PartTensors, take_part
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.part_files import WEIGHTS_FILES, weights_files
from animatediff.weights.reading.scaled import dequantised
from animatediff.weights.reading.tensors import TensorFile, open_tensors

_log = logging.getLogger(__name__)

_FIELDS = tuple(inspect.signature(ControlNetModel.__init__).parameters)[1:]
# What must be the base's, as the UNet's features are what residuals are added to, and its text what is read.
_SHARED_FIELDS = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "addition_embed_type")
_FIRST_LAYERS = ("controlnet_cond_embedding.conv_in.weight", "input_hint_block.0.weight")
_NUMBERED_LAYER = re.compile(r"(?:controlnet_cond_embedding\.blocks|(input_hint_block))\.(\d{1,4})\.weight")


@dataclass(frozen=True)
class ControlNetFile:
    """A ControlNet that was found whole. None of its weights is in memory yet."""

    uri: str
    config: Mapping[str, Any]
    """What diffusers' `ControlNetModel` is made with."""
    state: Mapping[str, Tensor]
    """By diffusers' names, in the file's own precision, memory-mapped: not to be written to."""
    global_pool_conditions: bool = False
    """Whether its residuals are pooled, as shuffle's are."""

    def build(self) -> ControlNet:
        """Return the network, float32.

        Raises:
            UserError: there are NaN or infinite numbers among the weights.
        """
        net = build_on_meta(ControlNetModel, self.config, f"the config of {self.uri}")
        state = {name: tensor.to(torch.float32, copy=True) for name, tensor in self.state.items()}
        for name, tensor in state.items():
            if not torch.stack(tensor.aminmax()).isfinite().all():
                raise UserError(f"{self.uri}: {name} has NaN or infinite values, the file is broken")
        net.load_state_dict(state, assign=True)
        return ControlNet(net, global_pool_conditions=self.global_pool_conditions)


def open_file(
    uri: str, unet_config: Mapping[str, Any], *, global_pool_conditions: bool | None = None
) -> ControlNetFile:
    """Open a ControlNet and check names and shapes; no weight is read.

    Args:
        uri: a file in the original layout (`control_model.*`, alone or within a whole checkpoint, or without that
            prefix), or a diffusers file or folder.
        unet_config: of the base's UNet, with which it is to be used.
        global_pool_conditions: whether its residuals are pooled, as those of the shuffle ControlNet are. Only the
            config in a diffusers folder says so, nothing in a file does; None is what the config says, else no.

    Raises:
        UserError: there is nothing at `uri`, it is of another kind (Control-LoRA, LLLite, a union of ControlNets, a
            difference to the base), not whole, or made for another base.
    """
    with any_error_as_user_error(f"cannot read the ControlNet {uri}"):
        file, config = _opened(uri)
        _check_kind(file, unet_config)
        if global_pool_conditions is None:
            global_pool_conditions = (config or {}).get("global_pool_conditions") is True
            if config is None and "shuffle" in posixpath.basename(uri).lower():
                _log.warning("%s: if it is a shuffle ControlNet, say global_pool_conditions: true, no file tells", uri)
        return replace(_checked(file, config, unet_config), global_pool_conditions=global_pool_conditions)


def _opened(uri: str) -> tuple[TensorFile, dict[str, Any] | None]:
    """Open the weights, and where they are diffusers' folder, the config beside them."""
    folder = local_copy(uri)
    if not folder.is_dir():
        return open_tensors(uri), None
    check_files(folder, uri)
    files = [open_tensors(str(path)) for path in weights_files(folder)]
    if not files:
        hint = ": name the controlnet folder in it" if (folder / "controlnet").is_dir() else ""
        raise UserError(f"folder {uri} has no {WEIGHTS_FILES[0]}, as a diffusers ControlNet has{hint}")
    tensors = {name: tensor for file in files for name, tensor in file.tensors.items()}
    config = read_json(folder / "config.json", f"the config.json in folder {uri}")
    return TensorFile(uri, tensors, files[0].metadata), config


def _check_kind(file: TensorFile, unet_config: Mapping[str, Any]) -> None:
    is_sdxl = unet_config.get("addition_embed_type") == "text_time"
    found = expect_family(file, {"controlnet"}, base="sdxl" if is_sdxl else "sd1")
    if found.version != "ControlNet":
        raise UserError(f"{file.uri} is {name_of(found)}, which is not read: take the whole ControlNet")


def _checked(file: TensorFile, own_config: Mapping[str, Any] | None, unet_config: Mapping[str, Any]) -> ControlNetFile:
    tensors, layout = _without_prefix(dequantised(file))
    what = f"ControlNet {file.uri}"
    of_base = {field: unet_config[field] for field in _FIELDS if field in unet_config} | _embedding(tensors, what)
    config, source = of_base, "the config of the base's UNet"
    if own_config is not None:
        config, source = {field: own_config[field] for field in _FIELDS if field in own_config}, f"the config of {what}"
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    net = build_on_meta(ControlNetModel, config, source, weights_bytes=num_bytes)
    if own_config is not None:
        _check_base(net, build_on_meta(ControlNetModel, of_base, "the config of the base's UNet"), what)
    wanted = net.state_dict()
    sources = ldm.sources("controlnet", wanted) if layout == "ldm" else {name: ldm.Source(name) for name in wanted}
    state = take_part(PartTensors(tensors, sources), wanted, what)
    ControlNet(net)  # refuses what it cannot run
    return ControlNetFile(file.uri, config, state)


def _without_prefix(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the ControlNet's own tensors, and whose names they have."""
    first = next((name for name in tensors if name.endswith(_FIRST_LAYERS[0])), None)
    if first is None:
        return ldm.part_of(tensors, "controlnet"), "ldm"
    prefix = first.removesuffix(_FIRST_LAYERS[0])
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, "diffusers"


def _embedding(tensors: Mapping[str, Tensor], what: str) -> dict[str, Any]:
    """Return the fields of the embedding of pictures: a layer, then pairs of which the second halves the picture."""
    first = next((tensors[name] for name in _FIRST_LAYERS if name in tensors), None)
    if first is None:
        raise UserError(f"{what} lacks {_FIRST_LAYERS[0]} ({_FIRST_LAYERS[1]}): it is not whole")
    widths = {}
    for name, tensor in tensors.items():
        if match := _NUMBERED_LAYER.fullmatch(name):
            number = int(match[2]) // 2 - 1 if match[1] else int(match[2])  # activations are numbered, too, there
            widths[number] = len(tensor)
    halving = [widths[number] for number in sorted(widths) if number > 0 and number % 2 == 1]
    return {
        "conditioning_channels": first.shape[1],
        "conditioning_embedding_out_channels": [len(first), *halving],
    }


def _check_base(net: Any, of_base: Any, what: str) -> None:
    for field in _SHARED_FIELDS:
        own, needed = (_as_list(model.config[field]) for model in (net, of_base))
        if own != needed:
            raise UserError(f"{what} was made for a base whose {field} is {own}, not {needed}: take one for this base")


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
