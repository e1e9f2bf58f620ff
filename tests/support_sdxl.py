"""SDXL in miniature, with random weights, in diffusers' own layout: for tests of shapes alone."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from animatediff.sprites.models.text_to_image import make_tokenizer


def build_sdxl_pipeline(folder: Path, *, seed: int = 0) -> StableDiffusionXLPipeline:
    """Make the pipeline; the same seed gives the same weights. Its tokenizer's files are put into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder)
    sizes = {"vocab_size": len(tokenizer), "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    texts = [CLIPTextConfig(hidden_size=w, projection_dim=w, max_position_embeddings=24, **sizes) for w in (8, 16)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64),
            norm_num_groups=8,
            cross_attention_dim=24,
            attention_head_dim=(2, 4, 8),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8,) * 4,
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=0.13025,
            force_upcast=True,
        )
        text_encoders = CLIPTextModel(texts[0]), CLIPTextModelWithProjection(texts[1])
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoders[0],
        text_encoder_2=text_encoders[1],
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )


def build_sdxl_base(folder: Path, *, seed: int = 0) -> Path:
    """Make the base model in a folder; returns it."""
    build_sdxl_pipeline(folder.with_name(f"{folder.name}-tokenizer"), seed=seed).save_pretrained(folder)
    return folder
