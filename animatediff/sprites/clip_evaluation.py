"""How well a motion module animates a base and its personalised checkpoints, by the world's ground truth.

`python -m animatediff.sprites.clip_evaluation --catalog CATALOG.yaml` renders the same prompts with every entry's
weights and prints a table; the catalog's own prompts play no part. An entry's style is its name's ending: `cel`,
`chalk`, else plain.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from animatediff.rendering import checks
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog import Catalog, Item
from animatediff.sprites.clip_measures import follows, measure_clip
from animatediff.sprites.command import run
from animatediff.sprites.drawing import render
from animatediff.sprites.evaluation import draw_prompts, open_base
from animatediff.sprites.parts import SAMPLE_SIZE
from animatediff.sprites.scoring import style_of
from animatediff.sprites.world import Scene, caption, sample_scenes

logger = logging.getLogger(__name__)

_NUM_FRAMES = 16
_SCENE_SEED = 3_000_000  # other scenes than those of any data set
_COLUMNS = ("shape", "colour", "style", "keeps itself", "follows", "displacement", "jitter")


@dataclass(frozen=True)
class Figures:
    """Of many clips of one model. Shares are in [0, 1], lengths in pixels of 64.

    Attributes:
        shape: share of the frames that show their prompt's shape.
        colour: share of the frames that show their prompt's colour.
        style: share of the frames in the model's style.
        keeps_itself: share of the clips whose subject has one known shape and colour in all frames.
        follows: share of the clips that move as their prompt says.
        displacement: median over the clips that are to travel or bounce; a clip without a measure counts as the one
            that moves least.
        jitter: mean over the clips of the median second difference of the centroid; a clip without one counts as the
            worst. Both are NaN if no clip has a measure.
    """

    shape: float
    colour: float
    style: float
    keeps_itself: float
    follows: float
    displacement: float
    jitter: float


def main(catalog: Path, num_clips: int = 100, baselines: bool = True) -> None:
    """Render and measure.

    Args:
        catalog: YAML file; base, motion module, settings and the entries' weights are taken from it.
        num_clips: for each entry.
        baselines: also measure real renders, and the base without a motion module, with noise shared by all frames of
            a clip and with noise of each frame's own.
    """
    read = checks.read(str(catalog))
    scenes = clip_scenes(num_clips)
    rows = dict(_baselines(read.base, scenes)) if baselines else {}
    animator = Animator.for_catalog(read, device="cpu")
    for entry in read.entries:
        animator.load_entry(entry)
        clips = [animator.render(item) for item in _items(read, scenes)]
        rows[entry.name] = figures(clips, scenes, style=style_of(entry.name))
        logger.info("%s is measured", entry.name)
    logger.info("%s", table(rows))


def clip_scenes(num: int) -> list[Scene]:
    """Scenes for prompts, all motions evenly; always the same."""
    return sample_scenes(num, _SCENE_SEED)


def figures(clips: Iterable[np.ndarray], scenes: Sequence[Scene], *, style: str) -> Figures:
    """Measure clips, each (f h w 3), of the scenes' captions."""
    measured = [measure_clip(clip) for clip in clips]
    readings = [(reading, scene) for clip, scene in zip(measured, scenes, strict=True) for reading in clip.readings]
    jitters = [clip.jitter for clip in measured]
    moving = [clip.displacement for clip, scene in zip(measured, scenes, strict=True) if _travels(scene)]
    return Figures(
        shape=_share(reading.shape == scene.shape for reading, scene in readings),
        colour=_share(reading.colour == scene.colour for reading, scene in readings),
        style=_share(reading.style == style for reading, _ in readings),
        keeps_itself=_share(clip.keeps_itself for clip in measured),
        follows=_share(follows(clip, scene.motion) for clip, scene in zip(measured, scenes, strict=True)),
        displacement=float(np.median(_filled(moving, min))),
        jitter=float(np.mean(_filled(jitters, max))),
    )


def table(rows: dict[str, Figures]) -> str:
    """The figures as aligned text, a line a model."""
    width = max(map(len, rows))
    lines = ["  ".join([" " * width, *_COLUMNS])]
    for name, row in rows.items():
        shares = (row.shape, row.colour, row.style, row.keeps_itself, row.follows)
        cells = [*(f"{share:.1%}" for share in shares), f"{row.displacement:.1f}", f"{row.jitter:.2f}"]
        padded = [cell.rjust(len(column)) for cell, column in zip(cells, _COLUMNS, strict=True)]
        lines.append("  ".join([name.ljust(width), *padded]))
    return "\n".join(lines)


def _baselines(base: str, scenes: Sequence[Scene]) -> Iterable[tuple[str, Figures]]:
    real = (render(scene, num_frames=_NUM_FRAMES, height=SAMPLE_SIZE, width=SAMPLE_SIZE) for scene in scenes)
    yield "real renders", figures(real, scenes, style="plain")
    pipeline = open_base(base)
    prompts = [caption(scene) for scene in scenes]
    # Without a motion module, frames of one noise are one picture.
    shared = np.repeat(draw_prompts(pipeline, prompts)[:, None], _NUM_FRAMES, axis=1)
    yield "base, shared noise", figures(shared, scenes, style="plain")
    independent = (draw_prompts(pipeline, [prompt] * _NUM_FRAMES) for prompt in prompts)
    yield "base, independent noise", figures(independent, scenes, style="plain")


def _items(catalog: Catalog, scenes: Sequence[Scene]) -> list[Item]:
    return [
        Item(
            digest="",
            entry="",
            prompt=caption(scene),
            seed=i,
            num_inference_steps=catalog.num_inference_steps,
            guidance_scale=catalog.guidance_scale,
            num_frames=_NUM_FRAMES,
            height=SAMPLE_SIZE,
            width=SAMPLE_SIZE,
        )
        for i, scene in enumerate(scenes)
    ]


def _travels(scene: Scene) -> bool:
    return scene.motion in ("left", "right", "up", "down", "bounce")


def _filled(values: Sequence[float], stand_in: Callable[[list[float]], float]) -> list[float]:
    """The values, with one of the known in place of each NaN."""
    known = [value for value in values if not math.isnan(value)]
    return [stand_in(known) if math.isnan(value) else value for value in values] if known else [math.nan]


def _share(right: Iterable[bool]) -> float:
    return float(np.mean(list(right)))


if __name__ == "__main__":
    run(main)
