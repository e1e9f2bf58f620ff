"""A tiny text-to-image model with random weights, in Stable Diffusion 1.x's own layout: for tests of shapes alone.

Its pictures are coloured noise. `shipped` has the trained one.
"""

import shutil
import uuid
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from animatediff.errors import UserError
from animatediff.sprites.models.parts import make_pipeline, make_text_encoder, make_unet, make_vae
from animatediff.sprites.models.tokenizer import build_tokenizer
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE, render
from animatediff.sprites.scenes.world import caption_words, sample_scenes

_TEXT_WIDTH = 32


def build_base(folder: Path, *, seed: int = 0, layers_per_block: int = 1) -> Path:
    """Make the base model, unless the folder holds one already.

    The folder appears whole or not at all; the same seed gives the same bytes; torch's own random state is untouched.

    Args:
        folder: absent, empty, or holding a model.
        seed: of the weights.
        layers_per_block: of the UNet. Stable Diffusion has 2, as files in its original layout do; a step takes twice as
            long with them.

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
        _build_pipeline(draft, seed, layers_per_block).save_pretrained(draft)
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


def _build_pipeline(draft: Path, seed: int, layers_per_block: int) -> StableDiffusionPipeline:
    tokenizer_path = draft / "tokenizer"
    tokenizer_path.mkdir(parents=True)
    tokenizer = build_tokenizer(caption_words(), tokenizer_path)
    # devices=[]: only the CPU's generator is used, and CUDA need not be started to save its state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = make_vae([16, 16, 32, 32], latent_channels=4, norm_num_groups=8)
        text_encoder = make_text_encoder(tokenizer, width=_TEXT_WIDTH)
        unet = make_unet(
            [32, 64, 64, 64],
            layers_per_block=layers_per_block,
            latent_channels=4,
            latent_size=8,
            text_width=_TEXT_WIDTH,
        )
    vae.register_to_config(scaling_factor=_measure_scaling_factor(vae))
    return make_pipeline(vae, text_encoder, tokenizer, unet)


@torch.no_grad()
def _measure_scaling_factor(vae: AutoencoderKL) -> float:
    """Return what makes the latents of the world's pictures have unit variance.

    Three digits, the same on every machine.
    """
    scenes = sample_scenes(18, seed=0)
    frames = [render(s, num_frames=1, height=SAMPLE_SIZE, width=SAMPLE_SIZE)[0] for s in scenes]
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2) / 127.5 - 1  # b c h w
    return float(f"{1 / vae.encode(pixels).latent_dist.mean.std().item():.3g}")
