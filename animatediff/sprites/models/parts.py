"""Stable Diffusion 1.x's parts in miniature, with fresh weights: diffusers' and transformers' own classes."""

from collections.abc import Sequence

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from animatediff.sprites.scenes.drawing import SAMPLE_SIZE

_TEXT_HEADS = 4


def make_vae(
    widths: Sequence[int], *, latent_channels: int, norm_num_groups: int, mid_block_add_attention: bool = True
) -> AutoencoderKL:
    """Return a VAE of as many levels as there are widths, each after the first halving the picture.

    Stable Diffusion's has four.
    """
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=list(widths),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=norm_num_groups,
        mid_block_add_attention=mid_block_add_attention,
        sample_size=SAMPLE_SIZE,
    ).eval()


def make_text_encoder(tokenizer: CLIPTokenizer, *, width: int) -> CLIPTextModel:
    """Return CLIP's text model with two layers."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=_TEXT_HEADS,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def make_unet(
    widths: Sequence[int],
    *,
    layers_per_block: int,
    latent_channels: int,
    latent_size: int,
    text_width: int,
    num_heads: int = 4,
) -> UNet2DConditionModel:
    """Return a UNet of Stable Diffusion 1.5's blocks, of as many levels as there are widths.

    8 groups: with 32, a group of the deepest map (1x1 or 2x2) is few values, whose norm blows up float32's rounding.
    """
    num_crossing = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=["CrossAttnDownBlock2D"] * num_crossing + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * num_crossing,
        block_out_channels=list(widths),
        layers_per_block=layers_per_block,
        norm_num_groups=8,
        cross_attention_dim=text_width,
        attention_head_dim=num_heads,  # the number of heads, as in Stable Diffusion 1.x's configs
    ).eval()


def make_scheduler() -> DDIMScheduler:
    """Return the schedule AnimateDiff samples with: linear betas, where Stable Diffusion's own are scaled_linear."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


def make_pipeline(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """Return the parts together, with no safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
