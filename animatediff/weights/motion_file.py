"""A motion module file, opened in whatever layout it is: checked by names and shapes, its weights still on disk."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error, one_line
from animatediff.models.config import MotionConfig, Version
from animatediff.models.motion_module import MotionModule, TemporalAttention, TextAttention, sinusoidal_positions
from animatediff.models.motion_unet import MotionModules
from animatediff.weights.identify.weights_file import expect_family
from animatediff.weights.layouts import motion as layouts
from animatediff.weights.layouts.few_step import FewStepSampling
from animatediff.weights.layouts.motion import Detected, Layout
from animatediff.weights.layouts.own_metadata import CONFIG_KEY, own_config, own_few_step, own_schedule
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.part_files import MODEL_FILES
from animatediff.weights.reading.tensors import TensorFile, open_tensors, problem_with

_log = logging.getLogger(__name__)

TRAINED_FILE = "motion_module.safetensors"
"""What the motion module is called in the folder of a training run, and of each of its checkpoints."""

_MAX_PLACES = 8  # blocks a side, and motion modules a block; Stable Diffusion has 4 and 3
_PUBLISHED_WIDTH = 320  # of the first block, in Stable Diffusion 1.x and SDXL
_NORM = re.compile(
    r"(down|mid|up)_blocks?(?:\.(\d{1,2}))?\.motion_modules\.(\d{1,2})\.temporal_transformer\.norm\.weight"
)


class Places(NamedTuple):
    """Where a UNet has motion modules: the channels of each, block by block."""

    down: list[list[int]]
    mid: int
    up: list[list[int]]

    def regular(self) -> "Places":
        """As Stable Diffusion's blocks are: equally many motion modules a down block, one more in the up blocks."""
        widths = [block[0] for block in max(self.down, self.up[::-1], key=len)]
        number = max(*map(len, self.down), *(len(block) - 1 for block in self.up))
        return Places([[w] * number for w in widths], widths[-1], [[w] * (number + 1) for w in reversed(widths)])

    def __str__(self) -> str:
        return ", ".join(f"{len(block)} x {block[0]}" for block in self.down)


def find_places(state: Mapping[str, Tensor]) -> Places:
    """Return the places of a state dict with official names, read from the norms' shapes."""
    found = {match.groups(): state[name].numel() for name in state if (match := _NORM.fullmatch(name))}
    sides: dict[str, dict[int, list[int]]] = {"down": {}, "mid": {}, "up": {}}
    for side, block, index in sorted(found, key=lambda place: (place[0], int(place[1] or 0), int(place[2]))):
        sides[side].setdefault(int(block or 0), []).append(found[side, block, index])
    mid = sides["mid"].get(0, [0])[0]
    return Places(list(sides["down"].values()), mid, list(sides["up"].values()))


@dataclass(frozen=True)
class MotionFile:
    """A motion module file that was found whole. None of its weights is in memory yet."""

    uri: str
    layout: Layout
    version: Version
    """The published version that it is, or the one whose shape it has most of."""
    config: MotionConfig
    state: Mapping[str, Tensor]
    """By official names, in the file's own precision, memory-mapped: not to be written to. No position tables."""
    has_published_widths: bool = False
    """Whether its blocks are as wide as those of the published bases."""
    schedule: dict[str, Any] | None = None
    """Fields of the `NoiseSchedule` that it was trained with; None where the file does not say."""
    first_convolution: tuple[Tensor, Tensor] | None = None
    """PIA's: weight (d 2c+1 3 3), which reads the noisy latents, a mask and a picture's latents, and bias (d)."""
    few_step: FewStepSampling | None = None
    """What it must be sampled with, where it was distilled here."""

    def build(self) -> MotionModules:
        """Return the motion modules, float32.

        Raises:
            UserError: there are NaN or infinite numbers among the weights.
        """
        with torch.device("meta"):
            motion = MotionModules(self.config, **find_places(self.state)._asdict())
        motion.to_empty(device="cpu")
        for name, module in motion.named_modules():
            if isinstance(module, MotionModule):  # one by one, as loading keeps a copy of what it fuses
                module.load_state_dict(_below(f"{name}.", self.state))
            elif isinstance(module, (TemporalAttention, TextAttention)) and module.positions is not None:
                module.positions = sinusoidal_positions(*module.positions.shape)
        for name, tensor in motion.state_dict().items():
            if not torch.stack(tensor.aminmax()).isfinite().all():
                raise UserError(f"{self.uri}: {self._own_name(name)} has NaN or infinite values, the file is broken")
        return motion

    def _own_name(self, name: str) -> str:
        return layouts.from_official(name, self.layout)


def open_file(uri: str) -> MotionFile:
    """Open a motion module, written here or published, and check names and shapes; no weight is read.

    Args:
        uri: an official file (AnimateDiff v1, v2, v3, SDXL-beta, AnimateLCM, AnimateDiff-Lightning, PIA), a dump of
            a whole UNet, a Hotshot-XL file, a diffusers `MotionAdapter` as a file or a folder, or the folder of a
            training run or of one of its checkpoints.

    Raises:
        UserError: there is nothing at `uri`, it is of another kind, not whole, or of a version that cannot be used.
    """
    file, adapter = _open(uri)
    with any_error_as_user_error(f"cannot read the motion module {uri}"):
        return _checked(file, adapter, uri)


def _checked(file: TensorFile, adapter: dict[str, Any] | None, uri: str) -> MotionFile:
    found = _detect(file, adapter)
    if what := layouts.unsupported(file.tensors):
        raise UserError(f"{uri} is {what}")
    _check_tables(file)
    state = _official_state(file, found.layout)
    is_own, schedule = CONFIG_KEY in file.metadata, own_schedule(file.metadata)
    few_step = own_few_step(file.metadata)
    has_published_widths = any(_PUBLISHED_WIDTH in block for block in find_places(state).down[:1])
    convolution = _first_convolution(file)
    opened = MotionFile(
        *(uri, found.layout, found.version, found.config, state),
        *(has_published_widths, schedule, convolution, few_step),
    )
    _check_whole(opened, is_own=is_own)
    if found.note:
        _log.warning("%s: %s", uri, found.note)
    return opened


def trained_file(uri: str) -> str | None:
    """Return the motion module in the folder of a training run or of one of its checkpoints; None where there is none.

    Raises:
        UserError: the storage cannot be reached.
    """
    # Web servers know no folders, and some answer at any address.
    if uri.startswith(("http://", "https://")) or uri.endswith(".safetensors"):
        return None
    file = storage.join(uri, TRAINED_FILE)
    return file if storage.exists(file) else None


def _open(uri: str) -> tuple[TensorFile, dict[str, Any] | None]:
    trained = trained_file(uri)
    if trained is not None:  # alone: a run's folder may hold gigabytes of optimizer states
        return replace(open_tensors(trained), uri=uri), None
    folder = local_copy(uri)
    if not folder.is_dir():
        return open_tensors(uri), None
    weights = next((folder / name for name in MODEL_FILES if (folder / name).is_file()), None)
    if weights is None:
        hint = ": name the motion_adapter folder in it" if (folder / "motion_adapter").is_dir() else ""
        raise UserError(
            f"folder {uri} has no {' or '.join(MODEL_FILES)}, as a diffusers MotionAdapter has, and no "
            f"{TRAINED_FILE}, as a training run and its checkpoints have{hint}"
        )
    return replace(open_tensors(str(weights)), uri=uri), _read_adapter_config(folder, uri)


def _read_adapter_config(folder: Path, uri: str) -> dict[str, Any]:
    return read_json(folder / "config.json", f"the config.json in folder {uri}")


def _detect(file: TensorFile, adapter: dict[str, Any] | None) -> Detected:
    try:
        own_config(file.metadata)
        found = layouts.detect(file.tensors, file.metadata, adapter)
        if found is not None:
            MotionConfig.model_validate(found.config.model_dump())
            return found
    except ValueError as error:
        raise UserError(f"the motion module's config in {file.uri} cannot be used: {one_line(error)}") from error
    expect_family(file, {"motion_module"})
    raise UserError(f"{file.uri} is not a whole motion module: it has no norm.weight of one")


def _first_convolution(file: TensorFile) -> tuple[Tensor, Tensor] | None:
    if not layouts.reads_picture(file.tensors):
        return None
    weight, bias = (file.tensors[name] for name in layouts.FIRST_CONVOLUTION)
    return weight, bias


def _check_tables(file: TensorFile) -> None:
    """Tables are not kept, so they must be what is computed in their place."""
    tables = {name: tensor for name, tensor in file.tensors.items() if layouts.is_table(name)}
    for name, table in tables.items():
        if not layouts.is_sinusoid(table):
            raise UserError(
                f"{file.uri}: the position table {name} is not the usual sinusoid (learned, scaled or broken), and "
                "no other is supported"
            )
    if len({table.shape[1] for table in tables.values()}) > 1:
        raise UserError(f"{file.uri}: its position tables have different lengths")


def _official_state(file: TensorFile, layout: Layout) -> dict[str, Tensor]:
    left_out = layouts.FIRST_CONVOLUTION if layouts.reads_picture(file.tensors) else ()
    tensors = {
        name: tensor for name, tensor in file.tensors.items() if not layouts.is_table(name) and name not in left_out
    }
    official = {name: layouts.to_official(name, layout) for name in tensors}
    others = [name for name, found in official.items() if found is None]
    if others and not layouts.is_whole_unet(tensors):
        raise UserError(f"{file.uri}: {others[0]} ({len(others)} such) is no part of a motion module in this layout")
    return {found: tensors[name] for name, found in official.items() if found is not None}


def _check_whole(file: MotionFile, *, is_own: bool) -> None:
    """Name what is missing, of another shape, or too much."""
    places = find_places(file.state)
    if not places.down or not places.up:
        raise UserError(
            f"{file.uri} is not a whole motion module: {'up' if places.down else 'down'}_blocks are missing"
        )
    if max(len(places.down), len(places.up), *map(len, places.down), *map(len, places.up)) > _MAX_PLACES:
        raise UserError(f"{file.uri} is no motion module of Stable Diffusion: it has more than {_MAX_PLACES} in a row")
    # Files written here may be for UNets of any build: their places are taken as they are.
    places = places if is_own else places.regular()
    config = file.config.model_copy(update={"use_positions": False})  # tables are in no state dict
    try:
        with torch.device("meta"):
            expected = MotionModules(config, **places._asdict()).state_dict()
    except ValueError as error:
        raise UserError(f"{file.uri} is not a whole motion module: {one_line(error)}") from error
    for name in [*expected, *file.state]:
        if problem := problem_with(file.state.get(name), expected.get(name)):
            raise UserError(f"{file.uri} is not a whole motion module: {file._own_name(name)} {problem}")


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
