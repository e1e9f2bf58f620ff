"""Motion module files by their names and shapes: whose layout it is, which version, and each tensor's official name."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from animatediff.models.config import MotionConfig, Version
from animatediff.models.motion_module import sinusoidal_positions
from animatediff.weights.layouts.own_metadata import own_config

Layout = Literal["official", "diffusers", "hotshotxl"]
"""Whose key names: guoyww/AnimateDiff's, diffusers' `MotionAdapter`'s, or Hotshot-XL's."""

_NAME = re.compile(
    r"((?:(?:down|up)_blocks\.\d{1,2}|mid_block)\.)(motion_modules|temporal_attentions)(\.\d{1,2}\.)(.+)"
)
_TABLE = re.compile(r"\.(?:pos_encoder\.(?:pe|pos_encoding|positional_encoding)|pos_embed\.pe)$")
_LIST: dict[Layout, str] = {
    "official": "motion_modules",
    "diffusers": "motion_modules",
    "hotshotxl": "temporal_attentions",
}
FIRST_CONVOLUTION = ("conv_in.weight", "conv_in.bias")
"""Names of the convolution by which PIA's motion module reads a picture."""
_XL_TEXT = (None, 2048)  # widths of the text that SDXL's motion modules may read
_BLOCK = "transformer_blocks.0."
_TEXT_KEYS = ".text_attention.to_k.weight"  # which no published file has
_TO_DIFFUSERS = (
    ("attention_blocks.0.", "attn1."),
    ("attention_blocks.1.", "attn2."),
    ("norms.0.", "norm1."),
    ("norms.1.", "norm2."),
    ("ff_norm.", "norm3."),
)
_TO_OFFICIAL = tuple((new, old) for old, new in _TO_DIFFUSERS)

# bfloat16 rounds numbers below 1 by up to 0.002; files of it, saved again in float32, keep that error.
_TABLE_TOLERANCE = 0.004

_RELATIVES = (
    ("controlnet_cond_embedding.", "a SparseCtrl encoder, not a motion module: it belongs beside one"),
    (
        "img_encoder.",
        "AnimateLCM-I2V, whose image encoder is not supported: take the AnimateLCM text-to-video file, and a "
        "SparseCtrl encoder for the picture",
    ),
    ("fps_embedding.", "FancyVideo, whose frame-rate and motion embeddings are not supported"),
    ("motion_embedding.", "FancyVideo, whose frame-rate and motion embeddings are not supported"),
)


class Detected(NamedTuple):
    """A motion module file, as its names, shapes and metadata tell."""

    layout: Layout
    version: Version
    config: MotionConfig
    note: str | None
    """What was guessed or is left out."""


def detect(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], adapter: Mapping[str, Any] | None = None
) -> Detected | None:
    """Tell a motion module's layout and version; no tensor's values are read.

    The files of AnimateDiff-Lightning have v2's names and shapes: nothing in them tells the two apart.

    Args:
        tensors: the file's, by name.
        metadata: the file's; a config that was written here decides, if it can be read.
        adapter: the content of the `config.json` beside a diffusers file.

    Returns:
        None if no motion module is among the tensors.

    Raises:
        ValueError: `adapter` describes what `MotionConfig` cannot.
    """
    layout = _layout(tensors)
    if layout is None:
        return None
    with suppress(ValueError):
        if own := own_config(metadata):
            return Detected(layout, _closest(own, _num_down_blocks(tensors)), own, None)
    whole_unet = is_whole_unet(tensors)
    frames = next((tensor.shape[-2] for name, tensor in tensors.items() if is_table(name) and tensor.ndim > 1), None)
    version = _version(layout, tensors, frames, whole_unet)
    update: dict[str, Any] = {
        "use_mid_block": _has_mid_block(tensors),
        "num_layers": _num_layers(tensors, layout),
        "text_width": next((t.shape[-1] for name, t in tensors.items() if name.endswith(_TEXT_KEYS)), None),
    }
    update |= adapter_settings(adapter) if adapter else {}
    update |= {"max_frames": frames} if frames else {}
    update |= {"resnet_norm_scope": "clip"} if reads_picture(tensors) else {}  # as PIA was trained (its `resnet.py`)
    config = MotionConfig.for_version(version).model_copy(update=update)
    return Detected(layout, version, config, _note(layout, version, frames, whole_unet))


def unsupported(tensors: Mapping[str, Tensor]) -> str | None:
    """Return what a relative of the motion module is that cannot be used as one; None for motion modules."""
    for fragment, what in _RELATIVES:
        if any(fragment in name for name in tensors):
            return what
    conv_in = tensors.get(FIRST_CONVOLUTION[0])
    if conv_in is not None and conv_in.ndim == 4 and conv_in.shape[1] != 4 and not reads_picture(tensors):
        return f"a motion module with its own first convolution of {conv_in.shape[1]} channels, which is not supported"
    return None


def reads_picture(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file's first convolution reads latents, a mask, and a picture's latents: c + 1 + c channels (PIA)."""
    weight, bias = (tensors.get(name) for name in FIRST_CONVOLUTION)
    return weight is not None and bias is not None and weight.ndim == 4 and weight.shape[1] % 2 == 1


def adapter_settings(adapter: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `MotionConfig` that the `config.json` of a diffusers `MotionAdapter` or `UNetMotionModel` gives.

    Raises:
        ValueError: it has other heads in each block, or more than one transformer block in a motion module.
    """
    keys = {
        "num_heads": ("motion_num_attention_heads",),
        "norm_num_groups": ("motion_norm_num_groups", "norm_num_groups"),
        "max_frames": ("motion_max_seq_length",),
    }
    found = {field: next((adapter[k] for k in names if k in adapter), None) for field, names in keys.items()}
    settings = {field: value for field, value in found.items() if value is not None}
    for field, value in settings.items():
        if isinstance(value, list) and len(set(value)) == 1:
            settings[field] = value[0]
        elif type(value) is not int or value < 1:
            raise ValueError(f"its config.json gives {keys[field][0]} {value!r}, one positive number is needed")
    return settings


def is_table(name: str) -> bool:
    """Whether a tensor's name is that of a position table."""
    return _TABLE.search(name) is not None


def is_sinusoid(table: Tensor) -> bool:
    """Whether a file's position table (1 f c) is the one that every motion module here computes for itself."""
    if table.ndim != 3 or len(table) != 1 or table.shape[2] % 2 or not table.is_floating_point():
        return False
    tolerance = max(_TABLE_TOLERANCE, torch.finfo(table.dtype).eps)  # the latter is of 8-bit floats
    return torch.allclose(table[0].float(), sinusoidal_positions(*table.shape[1:]), rtol=0, atol=tolerance)


def is_whole_unet(names: Collection[str]) -> bool:
    """Whether the motion modules come with the UNet around them, as the official trainer saves them."""
    return any(name.startswith("down_blocks.0.resnets.0.") for name in names)


def to_official(name: str, layout: Layout) -> str | None:
    """Return a tensor's name in the official layout; None for names outside motion modules.

    A name that does not belong in the layout keeps what is odd about it.
    """
    match = _NAME.fullmatch(name)
    if match is None or match[2] != _LIST[layout]:
        return None
    block, _, index, rest = match.groups()
    if layout == "official":
        return name
    rest = _swap(rest, _TO_OFFICIAL) if layout == "diffusers" else rest
    return f"{block}motion_modules{index}temporal_transformer.{rest}"


def from_official(name: str, layout: Layout) -> str:
    """Return the name in `layout` of a tensor with an official name, as `to_official` reads it back."""
    match = _NAME.fullmatch(name)
    if match is None or layout == "official":
        return name
    block, _, index, rest = match.groups()
    rest = rest.removeprefix("temporal_transformer.")
    return f"{block}{_LIST[layout]}{index}{_swap(rest, _TO_DIFFUSERS) if layout == 'diffusers' else rest}"


def _swap(rest: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        if rest.startswith(_BLOCK + old):
            return _BLOCK + new + rest.removeprefix(_BLOCK + old)
    return rest


def _places(names: Collection[str]) -> Iterator[re.Match[str]]:
    return (match for name in names if (match := _NAME.fullmatch(name)))


def _layout(names: Collection[str]) -> Layout | None:
    """MotionLoRAs name the same places, but never a norm's weight."""
    for _, kind, _, rest in (match.groups() for match in _places(names)):
        if rest == "temporal_transformer.norm.weight":
            return "official"
        if rest == "norm.weight":
            return "diffusers" if kind == "motion_modules" else "hotshotxl"
    return None


def _num_down_blocks(names: Collection[str]) -> int:
    return len({match[1] for match in _places(names) if match[1].startswith("down_blocks.")})


def _has_mid_block(names: Collection[str]) -> bool:
    return any(match[1] == "mid_block." for match in _places(names))


def _num_layers(names: Collection[str], layout: Layout) -> int:
    if layout == "diffusers":
        return 2
    found = (re.search(r"\.attention_blocks\.(\d+)\.", match[4]) for match in _places(names))
    return max((int(match[1]) + 1 for match in found if match), default=2)


def _version(layout: Layout, names: Collection[str], frames: int | None, whole_unet: bool) -> Version:
    """Return the version of a published file; the position table's length tells those of one shape apart."""
    if layout == "hotshotxl" or _num_down_blocks(names) == 3:
        return "hotshotxl" if layout == "hotshotxl" or frames == 24 else "sdxl"
    if _has_mid_block(names):
        return "animatelcm" if frames == 64 or (frames is None and not whole_unet) else "v2"
    return "v1" if frames == 24 or (frames is None and whole_unet) else "v3"


def _closest(config: MotionConfig, num_down_blocks: int) -> Version:
    """Return the published version that shares most of a config."""
    xl = ("sdxl", "hotshotxl")
    is_xl = num_down_blocks == 3 and config.text_width in _XL_TEXT  # a small base may have three blocks, too
    versions: list[Version] = [v for v in get_args(Version) if (v in xl) == is_xl]
    fields = config.model_dump().items()
    return max(versions, key=lambda v: len(fields & MotionConfig.for_version(v).model_dump().items()))


def _note(layout: Layout, version: Version, frames: int | None, whole_unet: bool) -> str | None:
    notes = []
    if whole_unet:
        notes.append("it is a dump of a whole UNet, only its motion modules are used")
    if frames is None and version in ("v1", "v3"):
        # The official trainer's dumps have had no tables since 2024-07, and v1's norms.
        reason = "as the official trainer dumps" if version == "v1" else "the later one"
        notes.append(f"it has no position tables, by which v1 and v3 differ: read as {version}, {reason}")
    if (layout, version, frames) == ("diffusers", "v3", 32):
        # diffusers' script drops the tables, and its adapter makes new ones: of 32 rows, if nobody says 24.
        looks = "v1 that was converted with a position table of 32 rows looks the same"
        notes.append(f"read as v3, though {looks}: of v1, take the official file")
    return "; ".join(notes) or None
