"""A SparseCtrl file, opened in whatever layout it is: checked by names and shapes, its weights still on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from animatediff.errors import UserError, any_error_as_user_error, one_line
from animatediff.models.config import MotionConfig
from animatediff.models.control.sparse_control import PUBLISHED_MOTION, SparseControlNet, Variant
from animatediff.models.motion_module import TemporalAttention, sinusoidal_positions
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.identify.weights_file import expect_family
from animatediff.weights.layouts import motion as motion_layouts
from animatediff.weights.layouts.motion import Layout
from animatediff.weights.layouts.own_metadata import own_config, own_metadata, own_schedule
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.part_files import MODEL_FILES
from animatediff.weights.reading.tensors import TensorFile, open_tensors, save_tensors

_EMBEDDING = "controlnet_cond_embedding."
_CONFIG_OF_TRAINER = "animatediff_config"  # what the official trainer saves beside the weights
_FIRST_RESNET = "down_blocks.{}.resnets.0.conv1.weight"
_MOST_BLOCKS = 8  # Stable Diffusion has 4


@dataclass(frozen=True)
class SparseControlFile:
    """A SparseCtrl file. None of its weights is in memory yet."""

    uri: str
    layout: Layout
    variant: Variant
    motion: MotionConfig
    """Shape of its motion modules: the published one, where the file does not say another."""
    schedule: dict[str, Any] | None
    """Fields of the `NoiseSchedule` that it was trained with; None where the file does not say."""
    state: Mapping[str, Tensor]
    """By official names, in the file's own precision, memory-mapped: not to be written to. No position tables."""

    def check_fits(self, base_config: Mapping[str, Any], base: str) -> None:
        """Refuse a file that is not whole, or was made for another base. Only names and shapes are compared.

        Args:
            base_config: the config of the base's UNet.
            base: the base's name in messages.

        Raises:
            UserError: it does not fit.
        """
        self.on_meta(base_config, base)

    def build(self, base_config: Mapping[str, Any], base: str = "of the SparseCtrl") -> SparseControlNet:
        """Return the network, float32. Heads and norm groups of its image layers, which no file tells, are the base's.

        Raises:
            UserError: as `check_fits` says, or there are NaN or infinite numbers among the weights.
        """
        network = self.on_meta(base_config, base).to_empty(device="cpu")
        network.load_state_dict(dict(self.state))
        for module in network.modules():
            if isinstance(module, TemporalAttention) and module.positions is not None:
                module.positions = sinusoidal_positions(*module.positions.shape)
        for name, tensor in network.state_dict().items():
            if not torch.stack(tensor.aminmax()).isfinite().all():
                raise UserError(f"{self.uri}: {name} has NaN or infinite values, the file is broken")
        return network.eval().requires_grad_(False)

    def on_meta(self, base_config: Mapping[str, Any], base: str) -> SparseControlNet:
        """Return the network, on the meta device, where it has no weights; see `check_fits`."""
        with any_error_as_user_error(f"base {base} cannot carry a SparseCtrl encoder"):
            unet = build_on_meta(UNet2DConditionModel, base_config, f"the config of the unet of base {base}")
            with torch.device("meta"):
                network = SparseControlNet(unet, self.variant, self.motion)
        expected = network.state_dict()
        if (found := _widths(self.state)) != (needed := _widths(expected)):
            raise UserError(
                f"SparseCtrl {self.uri} was made for another architecture than {base}: it is for blocks of "
                f"{_listed(found)} channels, the base's are {_listed(needed)}"
            )
        for name in [*expected, *self.state]:
            if problem := _problem(self.state.get(name), expected.get(name)):
                raise UserError(f"{self.uri} is not a whole SparseCtrl encoder for {base}: {name} {problem}")
        return network


def open_file(uri: str) -> SparseControlFile:
    """Open a SparseCtrl encoder; no weight is read.

    Args:
        uri: an official file, wrapped in `controlnet` or `state_dict` or not, with any prefix before its names;
            diffusers' `SparseControlNetModel` as a file or a folder; or a file written here.

    Raises:
        UserError: there is nothing at `uri`, it is of another kind, or its motion modules cannot be used.
    """
    file, settings = _open(uri)
    with any_error_as_user_error(f"cannot read the SparseCtrl encoder {uri}"):
        variant: Variant = "rgb" if expect_family(file, {"sparse_control"}).version == "rgb" else "scribble"
        state = _without_prefix(file.tensors)
        layout: Layout = "official" if any(".temporal_transformer." in name for name in state) else "diffusers"
        official = {motion_layouts.to_official(name, layout) or name: tensor for name, tensor in state.items()}
        motion, schedule = _motion(file, settings), own_schedule(file.metadata)
        return SparseControlFile(uri, layout, variant, motion, schedule, official)


def write(uri: str, network: SparseControlNet, *, schedule: Mapping[str, Any] | None = None) -> None:
    """Write a network in the official layout and its own precision: `open_file` gives it back exactly.

    Args:
        uri: a `.safetensors` file.
        network: what to write.
        schedule: fields of the `NoiseSchedule` that it was trained with, and must be sampled with.

    Raises:
        UserError: the storage cannot be written to.
    """
    save_tensors(uri, network.state_dict(), own_metadata(network.motion_config, schedule))


def _open(uri: str) -> tuple[TensorFile, dict[str, Any]]:
    folder = local_copy(uri)
    if not folder.is_dir():
        return open_tensors(uri), {}
    weights = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise UserError(f"folder {uri} has no {' or '.join(MODEL_FILES)}, as a diffusers SparseControlNetModel has")
    settings = read_json(folder / "config.json", f"the config.json in folder {uri}")
    return replace(open_tensors(str(weights)), uri=uri), settings


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = next(name.partition(_EMBEDDING)[0] for name in tensors if _EMBEDDING in name)
    names = (name for name in tensors if not motion_layouts.is_table(name))
    return {name.removeprefix(prefix): tensors[name] for name in names if not name.startswith(_CONFIG_OF_TRAINER)}


def _motion(file: TensorFile, settings: Mapping[str, Any]) -> MotionConfig:
    try:
        own = own_config(file.metadata)
        found = own or PUBLISHED_MOTION.model_copy(update=motion_layouts.adapter_settings(settings))
        return MotionConfig.model_validate(found.model_dump())
    except ValueError as error:
        raise UserError(f"the motion modules' config in {file.uri} cannot be used: {one_line(error)}") from error


def _widths(state: Mapping[str, Tensor]) -> list[int]:
    """Return the channels of the encoder's blocks."""
    names = (_FIRST_RESNET.format(block) for block in range(_MOST_BLOCKS))
    return [len(state[name]) for name in names if name in state and state[name].ndim]


def _listed(widths: list[int]) -> str:
    return ", ".join(map(str, widths)) or "no"


def _problem(given: Tensor | None, expected: Tensor | None) -> str | None:
    if given is None or expected is None:
        return "is missing" if given is None else "belongs to none"
    if not given.is_floating_point():
        return f"holds {str(given.dtype).removeprefix('torch.')}, not weights"
    return None if given.shape == expected.shape else f"is {list(given.shape)}, not {list(expected.shape)}"
