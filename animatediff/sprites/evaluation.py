"""How well a base draws what its prompts say: `python -m animatediff.sprites.evaluation --base FOLDER`."""

import logging
import textwrap
from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from animatediff.sprites.command import run
from animatediff.sprites.models.parts import make_pipeline
from animatediff.sprites.readings.pictures import Attributes, matches, read
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE
from animatediff.sprites.scenes.world import Scene, caption, sample_scenes
from animatediff.weights.base import load_text_encoder, load_unet, load_vae

logger = logging.getLogger(__name__)

NUM_STEPS = 25
GUIDANCE_SCALE = 5.0
_NUM_SEEN, _NUM_HELD_OUT, _NUM_SHOWN = 200, 100, 64
_SCENE_SEED = 2_000_000  # other scenes than those that training drew
_BATCH_SIZE = 50


def main(base: str, sheet: Path | None = None, num_seen: int = _NUM_SEEN, num_held_out: int = _NUM_HELD_OUT) -> None:
    """Draw prompts of seen and of held-out pairs of shape and colour, and say how many come out right.

    Args:
        base: folder of the base model.
        sheet: PNG file for a contact sheet of some of the pictures, with their prompts.
        num_seen: prompts of pairs that training showed.
        num_held_out: prompts of pairs that it never showed.
    """
    pipeline = open_base(base)
    for name, num, held_out in (("seen", num_seen, False), ("held out", num_held_out, True)):
        scenes = still_scenes(num, held_out=held_out)
        pictures = draw_prompts(pipeline, [caption(scene, with_motion=False) for scene in scenes])
        shares = shares_right(pictures, scenes)
        logger.info("%s: %s", name, ", ".join(f"{what} {share:.1%}" for what, share in shares.items()))
        if sheet is not None and not held_out:
            prompts = [caption(scene, with_motion=False) for scene in scenes[:_NUM_SHOWN]]
            contact_sheet(pictures[:_NUM_SHOWN], prompts).save(sheet)


def open_base(base: str) -> StableDiffusionPipeline:
    """Return the pipeline of a base model, in float32.

    Raises:
        UserError: there is none.
    """
    tokenizer, text_encoder = load_text_encoder(base)
    pipeline = make_pipeline(load_vae(base), text_encoder.float(), tokenizer, load_unet(base))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def still_scenes(num: int, *, held_out: bool) -> list[Scene]:
    """Return scenes that stand still, for prompts; always the same."""
    return [replace(scene, motion="still") for scene in sample_scenes(num, _SCENE_SEED, held_out=held_out)]


def draw_prompts(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> np.ndarray:
    """Draw one picture a prompt, the i-th from seed i.

    Returns:
        (n h w 3) uint8 RGB.
    """
    pictures = []
    for start in range(0, len(prompts), _BATCH_SIZE):
        batch = list(prompts[start : start + _BATCH_SIZE])
        drawn = pipeline(
            batch,
            num_inference_steps=NUM_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            height=SAMPLE_SIZE,
            width=SAMPLE_SIZE,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(batch))],
            output_type="np",
        )
        pictures.append((drawn.images * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def shares_right(pictures: np.ndarray, scenes: Sequence[Scene]) -> dict[str, float]:
    """Return the share of the pictures (n h w 3) that show each attribute of their scenes.

    What cannot be read is wrong.
    """
    right = [astuple(matches(read(picture), scene)) for picture, scene in zip(pictures, scenes, strict=True)]
    names = [field.name for field in fields(Attributes)]
    return dict(zip(names, np.mean(right, axis=0).tolist(), strict=True))


def contact_sheet(pictures: np.ndarray, prompts: Sequence[str], *, columns: int = 8, zoom: int = 2) -> Image.Image:
    """Return pictures (n h w 3) in a grid, each above its prompt."""
    side, line, margin = SAMPLE_SIZE * zoom, 11, 6
    lines = [textwrap.wrap(prompt, side // 6) for prompt in prompts]
    cell = side + line * max(map(len, lines)) + margin
    sheet = Image.new("RGB", (columns * (side + margin), -(-len(prompts) // columns) * cell), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, said) in enumerate(zip(pictures, lines, strict=True)):
        x, y = i % columns * (side + margin), i // columns * cell
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (x, y))
        pen.text((x, y + side), "\n".join(said), "black")
    return sheet


if __name__ == "__main__":
    run(main)
