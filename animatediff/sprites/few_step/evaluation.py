"""What the sprite world's few-step motion module saves, and what it loses, by the world's ground truth.

`python -m animatediff.sprites.few_step.evaluation --sheet sheet.png` renders the same prompts and seeds
with the motion module, 25 guided steps of DDIM, and with the MotionLoRA that makes it one of few steps, four clips
of each in turn, and prints a table: on the base, and on two personalised forms of it that neither module saw.
"""

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from animatediff.errors import UserError
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import EmbeddingFile, Entry, Lora
from animatediff.rendering.catalog.item import Item
from animatediff.sprites import shipped
from animatediff.sprites.clip_evaluation import Figures, clip_scenes, figures, table
from animatediff.sprites.command import run
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE
from animatediff.sprites.scenes.world import NEW_COLOUR, caption
from animatediff.sprites.scoring import style_of
from animatediff.sprites.sparse_control_evaluation import contact_sheet
from animatediff.weights.layouts.few_step import of_lora
from animatediff.weights.reading.tensors import open_tensors

logger = logging.getLogger(__name__)

ENTRIES = {
    "base": Entry(name="base"),
    "lora-chalk": Entry(name="lora-chalk", loras=(Lora(path=str(shipped.CHALK_LORA)),)),
    "inversion-brown": Entry(name="inversion-brown", embeddings=(EmbeddingFile(path=str(shipped.BROWN_EMBEDDING)),)),
}
QUALITY: Mapping[str, Any] = {"sampler": "ddim", "num_inference_steps": 25, "guidance_scale": 5.0}
_ROUND, _NUM_FRAMES = 4, 16


class _Way(NamedTuple):
    """One of the two ways to a clip."""

    motion_loras: tuple[Lora, ...]
    settings: Mapping[str, Any]


class Found(NamedTuple):
    """What was measured of an entry."""

    quality: Figures
    few_step: Figures
    speeds: list[float]
    """Of each round: how many times the processor seconds of the few steps the 25 took."""
    clips: dict[str, np.ndarray]
    """(n f h w 3) uint8 RGB, by the way."""


def main(
    few_step: Path = shipped.FEW_STEP,
    base: Path = shipped.BASE,
    motion_module: Path = shipped.MOTION_MODULE,
    num_clips: int = 60,
    entries: tuple[str, ...] = tuple(ENTRIES),
    sheet: Path | None = None,
) -> None:
    """Render and measure.

    Args:
        few_step: the MotionLoRA.
        base: the world's base.
        motion_module: what it is added to.
        num_clips: prompts, each rendered both ways.
        entries: of `ENTRIES`.
        sheet: PNG file for a contact sheet of some of the clips, side by side.
    """
    said = of_lora(open_tensors(str(few_step)).metadata)
    if said is None:
        raise UserError(f"{few_step} does not say how it is sampled: it is no result of recipe distill")
    ways = {
        "quality": _Way((), QUALITY),
        "few steps": _Way((Lora(path=str(few_step)),), said.settings),
    }
    animator = Animator(str(base), str(motion_module), schedule=None, device="cpu")
    rows: dict[str, Figures] = {}
    for name in entries:
        found = measure(animator, ways, ENTRIES[name], num_clips)
        rows |= {f"{name}, 25 steps": found.quality, f"{name}, {said.num_inference_steps} steps": found.few_step}
        speed = statistics.median(found.speeds)
        logger.info("%s: %.2f times (%.2f to %.2f)", name, speed, min(found.speeds), max(found.speeds))
        if sheet is not None:
            path = sheet.with_stem(f"{sheet.stem}-{name}")
            picture: Image.Image = contact_sheet(found.clips)
            picture.save(path)
    logger.info("%s", table(rows))


def measure(animator: Animator, ways: Mapping[str, _Way], entry: Entry, num_clips: int) -> Found:
    """Render an entry's clips by both ways in turn, and measure them."""
    colour = NEW_COLOUR[0] if entry.embeddings else None
    scenes = clip_scenes(num_clips)
    clips: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    speeds = []
    for first in range(0, num_clips, _ROUND):
        seconds = {}
        for name, way in ways.items():
            animator.load(entry.model_copy(update={"motion_loras": way.motion_loras}))
            items = [
                _item(caption(scene, colour=colour), seed, way.settings)
                for seed, scene in enumerate(scenes[first : first + _ROUND], start=first)
            ]
            start = time.process_time()
            clips[name] += _rendered(animator, items)
            seconds[name] = time.process_time() - start
        speeds.append(seconds["quality"] / seconds["few steps"])
    style = style_of(entry.name)
    quality, few_step = (figures(clips[name], scenes, style=style, colour=colour) for name in ways)
    return Found(quality, few_step, speeds, {name: np.stack(found) for name, found in clips.items()})


def _rendered(animator: Animator, items: Sequence[Item]) -> list[np.ndarray]:
    frames = []
    for clip in animator.render_batch(items):
        if isinstance(clip, UserError):
            raise clip
        frames.append(clip.frames)
    return frames


def _item(prompt: str, seed: int, settings: Mapping[str, Any]) -> Item:
    size = {"num_frames": _NUM_FRAMES, "height": SAMPLE_SIZE, "width": SAMPLE_SIZE}
    return Item(digest="", entry="", model="", prompt=prompt, seed=seed, **size, **settings)


if __name__ == "__main__":
    run(main)
