"""What Stable Diffusion's original repositories (LDM, and sgm of SDXL) call the parameters that diffusers names.

diffusers converts as well, but it asks for a config, drops keys that it does not know without a word, and fails on a
missing one without naming it. Here the names of the model that is to be filled drive the table, so that every key which
is missing and every key which is left over can be named.

All functions take parameter names (`conv_in.weight`) or module names (`conv_in`), but of the whole part: how many
layers a block has follows from them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from animatediff.errors import UserError

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
SD1_TEXT_PREFIX = "cond_stage_model.transformer.text_model."
SDXL_TEXT_PREFIX = "conditioner.embedders.0.transformer.text_model."
SDXL_TEXT_2_PREFIX = "conditioner.embedders.1.model."
_PREFIXES = {
    "unet": (UNET_PREFIX, "diffusion_model."),
    "vae": (VAE_PREFIX,),
    # Early merges lost the `text_model.`.
    "text_encoder": (SD1_TEXT_PREFIX, SDXL_TEXT_PREFIX, "cond_stage_model.transformer."),
    "text_encoder_2": (SDXL_TEXT_2_PREFIX,),
    "controlnet": ("control_model.",),
}
CONSTANTS = ("position_ids", "logit_scale", "text_projection.weight")
"""How the names end that text encoders are saved with and no text-to-image model learns or, as it stands, reads.

The last is CLIP-L's, which ComfyUI saves beside it; SDXL's second text encoder has one that counts.
"""
# What the VAE's own trainer left beside it: the loss with its networks, and an averaged copy.
_LEFTOVERS = ("loss.", "model_ema.")
# A file of one part alone may have no prefix: the name that tells so, and the names that are then the part's.
_BARE = {
    "unet": ("input_blocks.0.0.weight", ("time_embed.", "label_emb.", "input_", "middle_block.", "output_", "out.")),
    "vae": ("decoder.mid.attn_1.q.weight", ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")),
    "controlnet": ("input_hint_block.0.weight", ("time_embed.", "label_emb.", "input_", "middle_block", "zero_convs.")),
}
# LDM's trainer keeps a second, averaged UNet, and drops the dots of its names.
_EMA_PREFIX = "model_ema.diffusion_model"

_UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(
    r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)

_OPEN_CLIP_TOP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OPEN_CLIP_FUSED = re.compile(r"self_attn\.([qkv])_proj\.(weight|bias)")


class Source(NamedTuple):
    """Where a file holds a tensor, where that is not simply another name for it."""

    name: str
    third: int | None = None
    """Which of the fused query, key and value it is, stacked in the first dimension."""
    transposed: bool = False

    def read(self, tensor: Tensor) -> Tensor:
        """Return the wanted tensor, of the one that is called `name`; a view of it."""
        if self.third is not None:
            return torch.atleast_1d(tensor).tensor_split(3)[self.third]
        return tensor.transpose(0, -1) if self.transposed else tensor


def sources(part: str, names: Iterable[str]) -> dict[str, Source]:
    """Where a file holds a part's parameters, by diffusers' names; the part's prefix is left out.

    Args:
        part: `unet`, `vae`, `text_encoder`, `text_encoder_2` or `controlnet`.
        names: all parameter names of that part.

    Raises:
        UserError: the layout has no place for a name.
    """
    if part == "text_encoder_2":
        return open_clip_sources(names)
    tables = {
        "unet": unet_ldm_names,
        "vae": vae_ldm_names,
        "text_encoder": clip_ldm_names,
        "controlnet": control_net_ldm_names,
    }
    return {name: Source(old) for name, old in tables[part](names).items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return what a file holds of a part, without the part's prefix; empty where it has none."""
    for prefix in _PREFIXES[part]:
        found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        # Merges have one file's constants beside the other's weights.
        if not all(name.endswith(CONSTANTS) for name in found):
            return {name: tensor for name, tensor in found.items() if not name.startswith(_LEFTOVERS)}
    mark, own = _BARE.get(part, ("", ()))
    return {name: tensor for name, tensor in tensors.items() if name.startswith(own)} if mark in tensors else {}


def averaged_unet(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Return the averaged (EMA) UNet's tensors that a file has, by their original names without `UNET_PREFIX`.

    Args:
        tensors: the file's.
        names: all parameter names of the UNet, diffusers'.
    """
    if not any(name.startswith(_EMA_PREFIX) for name in tensors):
        return {}
    flat = {name: _EMA_PREFIX + name.replace(".", "") for name in unet_ldm_names(names).values()}
    return {name: tensors[key] for name, key in flat.items() if key in tensors}


def unet_ldm_names(names: Iterable[str]) -> dict[str, str]:
    """Return the UNet's names in the original layout, without `UNET_PREFIX`, by diffusers' names.

    Raises:
        UserError: the layout has no place for a name.
    """
    names = list(names)
    blocks = [match for name in names if (match := _UNET_BLOCK.fullmatch(name))]
    layers = _layers_per_block((m[1], int(m[2] or 0), int(m[4])) for m in blocks if m[3] == "resnets")
    with_attention = {int(m[2] or 0) for m in blocks if (m[1], m[3]) == ("up", "attentions")}
    downsampled = {int(m[2] or 0) for m in blocks if m[3] == "downsamplers"}
    return {name: _unet_name(name, layers, with_attention, downsampled) for name in names}


def _layers_per_block(resnets: Iterable[tuple[str, int, int]]) -> dict[tuple[str, int], int]:
    layers: dict[tuple[str, int], int] = {}
    for side, block, layer in resnets:
        layers[side, block] = max(layers.get((side, block), 0), layer + 1)
    return layers


def _unet_name(name: str, layers: dict[tuple[str, int], int], with_attention: set[int], downsampled: set[int]) -> str:
    match = _UNET_BLOCK.fullmatch(name)
    if not match:
        return _replace_start(name, _UNET_TOP)
    side, block, kind, layer, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if kind == "resnets":
        rest = _replace_start(rest, _UNET_RESNET)
    if side == "mid":
        return f"middle_block.{2 * layer + (kind == 'attentions')}.{rest}"
    before = sum(count for (other_side, other), count in layers.items() if other_side == side and other < block)
    if side == "down":
        # Block 0 is conv_in, and each downsampler is a block of its own.
        before += 1 + sum(other < block for other in downsampled)
        if kind == "downsamplers":
            return f"input_blocks.{before + layers[side, block]}.0.{_replace_start(rest, {'conv': 'op'})}"
        return f"input_blocks.{before + layer}.{int(kind == 'attentions')}.{rest}"
    if kind == "upsamplers":
        # It is the last entry of the block's last layer: after the ResNet, and the attention where there is one.
        return f"output_blocks.{before + layers[side, block] - 1}.{1 + (block in with_attention)}.{rest}"
    return f"output_blocks.{before + layer}.{int(kind == 'attentions')}.{rest}"


def control_net_ldm_names(names: Iterable[str]) -> dict[str, str]:
    """Return a ControlNet's names in the original layout, without `control_model.`, by diffusers' names.

    They are the UNet's, and of its own the zero convolutions and the embedding of pictures, whose layers are every
    second of a sequence with activations between them.

    Raises:
        UserError: the layout has no place for a name.
    """
    names = list(names)
    num_skips, num_blocks = (
        len({name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)})
        for prefix in ("controlnet_down_blocks.", "controlnet_cond_embedding.blocks.")
    )
    own = {
        **{f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(num_skips)},
        "controlnet_mid_block": "middle_block_out.0",
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        **{f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 + 2 * i}" for i in range(num_blocks)},
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{2 + 2 * num_blocks}",
    }
    unet = unet_ldm_names(name for name in names if not name.startswith("controlnet_"))
    return {name: unet[name] if name in unet else _replace_start(name, own) for name in names}


def vae_ldm_names(names: Iterable[str]) -> dict[str, str]:
    """Return the VAE's names in the original layout, without `VAE_PREFIX`, by diffusers' names.

    The attention's matrices are 1x1 convolutions in that layout.

    Raises:
        UserError: the layout has no place for a name.
    """
    names = list(names)
    blocks = [match for name in names if (match := _VAE_BLOCK.fullmatch(name))]
    last_up = max((int(m[3]) for m in blocks if m[2] == "up"), default=0)
    return {name: _vae_name(name, last_up) for name in names}


def _vae_name(name: str, last_up: int) -> str:
    match = _VAE_BLOCK.fullmatch(name)
    if not match:
        side, dot, rest = name.partition(".")
        if dot and side in ("encoder", "decoder"):
            top = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
            return f"{side}.{_replace_start(rest, top)}"
        return _replace_start(name, {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"})
    coder, side, block, kind, layer, rest = match[1], match[2], int(match[3] or 0), match[4], int(match[5]), match[6]
    if kind == "resnets" and rest.startswith("conv_shortcut"):
        rest = _replace_start(rest, _VAE_RESNET)
    if side == "mid":
        if kind == "attentions":
            return f"{coder}.mid.attn_{layer + 1}.{_replace_start(rest, _VAE_ATTENTION)}"
        return f"{coder}.mid.block_{layer + 1}.{rest}"
    # The original counts the decoder's levels from the pixels, diffusers in the order in which they run.
    level = f"{coder}.{side}.{last_up - block if side == 'up' else block}"
    return f"{level}.block.{layer}.{rest}" if kind == "resnets" else f"{level}.{kind.removesuffix('rs')}.{rest}"


def clip_ldm_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names of CLIP-L's text encoder in the file, without `SD1_TEXT_PREFIX` or `SDXL_TEXT_PREFIX`.

    They are transformers' own. transformers has moved between names with and without `text_model.` in front.
    """
    return {name: name.removeprefix("text_model.") for name in names}


def open_clip_sources(names: Iterable[str]) -> dict[str, Source]:
    """Where OpenCLIP's layout holds the parameters of SDXL's second text encoder, without `SDXL_TEXT_2_PREFIX`.

    Takes parameter names only, as the layout fuses weights.

    Raises:
        UserError: the layout has no place for a name.
    """
    return {name: _open_clip_source(name.removeprefix("text_model.")) for name in names}


def _open_clip_source(name: str) -> Source:
    if name == "text_projection.weight":
        return Source("text_projection", transposed=True)
    if name in _OPEN_CLIP_TOP:
        return Source(_OPEN_CLIP_TOP[name])
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
    if not match:
        raise UserError(f"OpenCLIP's layout has no place for {name}")
    block, rest = f"transformer.resblocks.{match[1]}", match[2]
    if fused := _OPEN_CLIP_FUSED.fullmatch(rest):
        return Source(f"{block}.attn.in_proj_{fused[2]}", third="qkv".index(fused[1]))
    return Source(f"{block}.{_replace_start(rest, _OPEN_CLIP_LAYER)}")


def _replace_start(name: str, table: dict[str, str]) -> str:
    """`name` with the module's path at its start renamed."""
    for new, old in table.items():
        if name == new or name.startswith(f"{new}."):
            return old + name.removeprefix(new)
    raise UserError(f"Stable Diffusion's original layout has no place for {name}")
