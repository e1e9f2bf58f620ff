"""Motion modules as files: safetensors in the official key layout, with the config in the metadata."""

import json
import re

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from animatediff import storage
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights.files import local_copy

_CONFIG_KEY = "motion_config"


def to_bytes(motion: MotionModules) -> bytes:
    """The file's content: official keys, config in the metadata. Position tables are a formula and left out."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in motion.state_dict().items()}
    return save(state, metadata={"format": "pt", _CONFIG_KEY: motion.config.model_dump_json()})


def write(uri: str, motion: MotionModules) -> None:
    """Write the file, atomically."""
    storage.write_bytes(uri, to_bytes(motion))


def read(uri: str) -> MotionModules:
    """Rebuild motion modules from a file, written here or published (v1, v2, v3, SDXL-beta).

    Raises:
        UserError: the file is missing, no safetensors, or holds no motion module.
    """
    path = local_copy(uri)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys() if "motion_modules." in name}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{uri} is not a safetensors file: {error}") from error
    if not state:
        raise UserError(f"{uri} holds no motion module: no key contains 'motion_modules.'")
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    config = _config_from_metadata(metadata, uri) or _detect(state)
    return _rebuild(config, {k: v for k, v in state.items() if "pos_encoder" not in k}, uri)


def _config_from_metadata(metadata: dict[str, str], uri: str) -> MotionConfig | None:
    if _CONFIG_KEY not in metadata:
        return None
    try:
        return MotionConfig.model_validate(json.loads(metadata[_CONFIG_KEY]))
    except (ValidationError, ValueError) as error:
        raise UserError(f"{uri}: the motion config in its metadata cannot be read: {error}") from error


def _detect(state: dict[str, Tensor]) -> MotionConfig:
    """The version of a published file, told from its keys and its position table's length."""
    if not any(name.startswith("down_blocks.3.") for name in state):
        return MotionConfig.for_version("sdxl")
    if any(name.startswith("mid_block.") for name in state):
        return MotionConfig.for_version("v2")
    table = next((tensor for name, tensor in state.items() if name.endswith("pos_encoder.pe")), None)
    is_v1 = table is not None and table.shape[1] == 24
    return MotionConfig.for_version("v1" if is_v1 else "v3")


def _rebuild(config: MotionConfig, state: dict[str, Tensor], uri: str) -> MotionModules:
    try:
        mid = _channels(state, "mid_block")[0] if config.use_mid_block else [0]
        motion = MotionModules(
            config, down=_channels(state, "down_blocks"), mid=mid[0], up=_channels(state, "up_blocks")
        )
        motion.load_state_dict(state)
    except (RuntimeError, IndexError, ValueError) as error:
        raise UserError(f"{uri} is not a whole motion module: {' '.join(str(error).split())[:300]}") from error
    return motion


def _channels(state: dict[str, Tensor], part: str) -> list[list[int]]:
    """Channels of each motion module, block by block, read from the norms' shapes."""
    pattern = re.compile(rf"{part}\.(?:(\d+)\.)?motion_modules\.(\d+)\.temporal_transformer\.norm\.weight")
    found = {(int(m[1] or 0), int(m[2])): len(state[name]) for name in state if (m := pattern.fullmatch(name))}
    blocks = sorted({block for block, _ in found})
    return [[found[key] for key in sorted(found) if key[0] == block] for block in blocks]
