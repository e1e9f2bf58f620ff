"""What Stable Diffusion 1.x and SDXL are made of, known here so that no hub is asked for a config.

The values are those of the configs that were published with Stable Diffusion 1.5 and SDXL 1.0.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

KnownBase = Literal["sd1", "sdxl"]

PARTS: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
"""What a checkpoint may replace of a base, and its class; only SDXL has the last."""

_VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
}
# The special tokens' numbers are wrong for CLIP's tokenizer but part of every published config: with an `eos_token_id`
# of 2, transformers takes the pooled embedding at the highest token, which is where the text ends.
_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_CLIP_L: dict[str, Any] = {
    **_TEXT,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
_OPEN_CLIP_BIG_G: dict[str, Any] = {
    **_TEXT,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
CONFIGS: Mapping[KnownBase, Mapping[str, dict[str, Any]]] = {
    "sd1": {
        "unet": {
            "sample_size": 64,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768,
            "attention_head_dim": 8,  # diffusers' old misnomer for the number of heads
        },
        "vae": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
        "text_encoder": _CLIP_L,
    },
    "sdxl": {
        "unet": {
            "sample_size": 128,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [320, 640, 1280],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        "text_encoder": _CLIP_L,
        "text_encoder_2": _OPEN_CLIP_BIG_G,
    },
}
"""Constructor arguments by base and part; what is not named is the class's default."""


def meta_modules(base: KnownBase) -> dict[str, nn.Module]:
    """Return a base's modules on torch's meta device: names, shapes and configs, but no memory for weights."""
    with torch.device("meta"):
        return {part: _build(PARTS[part], config) for part, config in CONFIGS[base].items()}


def _build(cls: Any, config: dict[str, Any]) -> nn.Module:
    is_text_encoder = cls in (CLIPTextModel, CLIPTextModelWithProjection)
    module: nn.Module = (
        cls(CLIPTextConfig(**config, architectures=[cls.__name__])) if is_text_encoder else cls(**config)
    )
    return module.eval()


def sdxl_or_sd1(parameter_names: Iterable[str]) -> KnownBase:
    """Return `sdxl` for a UNet with SDXL's added embedding, and `sd1` for any other, by diffusers' parameter names."""
    return "sdxl" if any(name.startswith("add_embedding.") for name in parameter_names) else "sd1"
