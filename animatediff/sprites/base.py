"""A tiny text-to-image model in Stable Diffusion 1.x's own layout, for everything that needs a base model to run on.

Its weights are random: pictures come out as coloured noise. The base that is trained on the world's stills takes this
folder's place and keeps its layout.
"""

import shutil
import uuid
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from animatediff.errors import UserError
from animatediff.sprites.tokenizer import MAX_LENGTH, build_tokenizer
from animatediff.sprites.world import caption_words, render, sample_scenes

# Pixels a side that the model is made for: latents of 8 x 8.
SAMPLE_SIZE = 64
_TEXT_WIDTH = 32


def build_base(folder: Path, *, seed: int = 0) -> Path:
    """Makes the base model, unless the folder holds one already.

    The folder appears whole or not at all; the same seed gives the same bytes; torch's own random state is untouched.

    Args:
        folder: absent, empty, or holding a model.
        seed: of the weights.

    Returns:
        `folder`, for `StableDiffusionPipeline.from_pretrained`.

    Raises:
        UserError: the folder holds something else.
    """
    if _is_complete(folder):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is in the way: it holds no model, and it is not empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        _build_pipeline(draft, seed).save_pretrained(draft)
        _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _is_complete(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def _publish(draft: Path, folder: Path) -> None:
    try:
        draft.replace(folder)
    except OSError:
        # Another process was first; its bytes are the same.
        if not _is_complete(folder):
            raise


def _build_pipeline(draft: Path, seed: int) -> StableDiffusionPipeline:
    tokenizer_path = draft / "tokenizer"
    tokenizer_path.mkdir(parents=True)
    tokenizer = build_tokenizer(caption_words(), tokenizer_path)
    # devices=[]: only the CPU's generator is used, and CUDA need not be started to save its state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae, text_encoder, unet = _vae(), _text_encoder(tokenizer), _unet()
    vae.register_to_config(scaling_factor=_measure_scaling_factor(vae))
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _vae() -> AutoencoderKL:
    """Four levels, as Stable Diffusion's: 8 pixels a latent, 4 latent channels."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[16, 16, 32, 32],
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SAMPLE_SIZE,
    ).eval()


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        projection_dim=_TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def _unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's blocks in miniature.

    8 groups: with 32, a group of the deepest map (1x1) is two values, whose norm blows up float32's rounding.
    """
    return UNet2DConditionModel(
        sample_size=SAMPLE_SIZE // 8,
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        block_out_channels=[32, 64, 64, 64],
        layers_per_block=2,
        norm_num_groups=8,
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, as in Stable Diffusion 1.x's configs
    ).eval()


def _scheduler() -> DDIMScheduler:
    """The schedule AnimateDiff samples with: linear betas, where Stable Diffusion's own are scaled_linear."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


@torch.no_grad()
def _measure_scaling_factor(vae: AutoencoderKL) -> float:
    """What makes the latents of the world's pictures have unit variance; three digits, the same on every machine."""
    scenes = sample_scenes(18, seed=0)
    frames = [render(s, num_frames=1, height=SAMPLE_SIZE, width=SAMPLE_SIZE)[0] for s in scenes]
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 127.5 - 1  # b c h w
    return float(f"{1 / vae.encode(pixels).latent_dist.mean.std().item():.3g}")
