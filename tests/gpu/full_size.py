"""Stable Diffusion 1.5 and LoRAs for it in their own sizes, with random weights: no model hub is needed."""

import json

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from animatediff.sprites.models.parts import make_scheduler
from animatediff.sprites.models.tokenizer import build_tokenizer
from animatediff.sprites.scenes.world import caption_words

WIDTHS = (320, 640, 1280, 1280)


def make_unet(widths, device):
    """A UNet of Stable Diffusion 1.5's shape; at its own widths it has 859,520,964 parameters."""
    with torch.device(device):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=widths,
            cross_attention_dim=768,
            attention_head_dim=8,
            norm_num_groups=min(32, widths[0] // 4),
        ).eval()


def make_vae(device):
    with torch.device(device):
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
        ).eval()


def build_full_size(folder, device):
    """Write a base in diffusers' layout, in half precision (2.1 GB); returns its path."""
    torch.manual_seed(0)
    tokenizer_folder = folder / "tokenizer"
    tokenizer_folder.mkdir(parents=True)
    tokenizer = build_tokenizer(caption_words(), tokenizer_folder)
    with torch.device(device):
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                projection_dim=768,
                num_hidden_layers=12,
                num_attention_heads=12,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    pipeline = StableDiffusionPipeline(
        vae=make_vae(device),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=make_unet(WIDTHS, device),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(folder)
    assert json.loads((folder / "unet" / "config.json").read_text())["block_out_channels"] == list(WIDTHS)
    return str(folder)


def write_lora(path, unet, *, rank, seed):
    """Write a LoRA on all of the UNet's attention projections, in kohya's layout; returns its path."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Linear) and ".attn" in name:
            key = f"lora_unet_{name.replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(rank, module.in_features, generator=generator).half()
            up = torch.randn(module.out_features, rank, generator=generator)
            tensors[f"{key}.lora_up.weight"] = (up * 1e-3).half()
    save_file(tensors, path)
    return str(path)
