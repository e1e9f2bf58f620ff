"""How well a motion module animates a base and its personalised checkpoints, by the world's ground truth.

`python -m animatediff.sprites.clip_evaluation --catalog CATALOG.yaml` renders the same prompts with every entry's
weights, as clips and as stills, and prints a table; the catalog's own prompts play no part. An entry's style is its
name's ending: `cel`, `chalk`, else plain. An entry with the new colour's embedding is asked for that colour.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.model_identity import token_of
from animatediff.rendering.checks import catalog as checks
from animatediff.sprites.command import run
from animatediff.sprites.readings.clips import follows, measure_clip
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE, render
from animatediff.sprites.scenes.world import NEW_COLOUR, Scene, caption, sample_scenes
from animatediff.sprites.scoring import KNOWN_COLOURS, style_of

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


def main(catalog: Path, num_clips: int = 100, num_personalised: int | None = None) -> None:
    """Render and measure.

    Each entry is measured as clips and as stills, which are single pictures of the same models without any motion
    module. The catalog's first entry, which should be the base as it is, is also measured without the motion module
    as clips: with noise shared by all frames, which makes one picture of them, and with noise of each frame's own.

    Args:
        catalog: YAML file; base, motion module, settings and the entries' weights are taken from it.
        num_clips: for the first entry, and real renders of the same prompts.
        num_personalised: for each of the other entries; default: as many.
    """
    read = checks.read(str(catalog))
    scenes = clip_scenes(num_clips)
    real = (render(scene, num_frames=_NUM_FRAMES, height=SAMPLE_SIZE, width=SAMPLE_SIZE) for scene in scenes)
    rows = {"real renders": figures(real, scenes, style="plain")}
    model = read.model_files(read.entries[0])
    animator = Animator.for_model(model, device="cpu")
    still = Animator(model.base, None, schedule=None, device="cpu")
    for entry in read.entries:
        is_first = entry == read.entries[0]
        chosen = scenes if is_first else scenes[:num_personalised]
        rows |= _rows(read, entry, chosen, animator, still, with_baselines=is_first)
        logger.info("%s is measured", entry.name)
    logger.info("%s", table(rows))


def clip_scenes(num: int) -> list[Scene]:
    """Return scenes for prompts, all motions evenly; always the same."""
    return sample_scenes(num, _SCENE_SEED)


def figures(clips: Iterable[np.ndarray], scenes: Sequence[Scene], *, style: str, colour: str | None = None) -> Figures:
    """Measure clips, each (f h w 3), of the scenes' captions; `colour` stands for the scenes' own if it is given."""
    measured = [measure_clip(clip, colours=KNOWN_COLOURS) for clip in clips]
    readings = [(reading, scene) for clip, scene in zip(measured, scenes, strict=True) for reading in clip.readings]
    jitters = [clip.jitter for clip in measured]
    moving = [clip.displacement for clip, scene in zip(measured, scenes, strict=True) if _travels(scene)]
    return Figures(
        shape=_share(reading.shape == scene.shape for reading, scene in readings),
        colour=_share(reading.colour == (colour or scene.colour) for reading, scene in readings),
        style=_share(reading.style == style for reading, _ in readings),
        keeps_itself=_share(clip.keeps_itself for clip in measured),
        follows=_share(follows(clip, scene.motion) for clip, scene in zip(measured, scenes, strict=True)),
        displacement=float(np.median(_filled(moving, min))),
        jitter=float(np.mean(_filled(jitters, max))),
    )


def table(rows: dict[str, Figures]) -> str:
    """Return the figures as aligned text, a line a model."""
    width = max(map(len, rows))
    lines = ["  ".join([" " * width, *_COLUMNS])]
    for name, row in rows.items():
        shares = (row.shape, row.colour, row.style, row.keeps_itself, row.follows)
        cells = [*(f"{share:.1%}" for share in shares), f"{row.displacement:.1f}", f"{row.jitter:.2f}"]
        padded = [cell.rjust(len(column)) for cell, column in zip(cells, _COLUMNS, strict=True)]
        lines.append("  ".join([name.ljust(width), *padded]))
    return "\n".join(lines)


def _rows(
    catalog: Catalog,
    entry: Entry,
    scenes: Sequence[Scene],
    animator: Animator,
    still: Animator,
    *,
    with_baselines: bool,
) -> dict[str, Figures]:
    style = style_of(entry.name)
    colour = NEW_COLOUR[0] if NEW_COLOUR[0] in (token_of(file.path, file.token) for file in entry.embeddings) else None
    for each in (animator, still):
        each.load(catalog.model_files(entry))

    def measured(renderer: Animator, num_frames: int, *, repeat: int = 1) -> Figures:
        clips = (renderer.render(_item(catalog, i, scene, colour, num_frames)) for i, scene in enumerate(scenes))
        return figures((np.repeat(clip, repeat, axis=0) for clip in clips), scenes, style=style, colour=colour)

    rows = {f"{entry.name}, stills": measured(still, 1)}
    if with_baselines:
        rows[f"{entry.name}, shared noise"] = measured(still, 1, repeat=_NUM_FRAMES)
        rows[f"{entry.name}, independent noise"] = measured(still, _NUM_FRAMES)
    return rows | {entry.name: measured(animator, _NUM_FRAMES)}


def _item(catalog: Catalog, seed: int, scene: Scene, colour: str | None, num_frames: int) -> Item:
    return Item(
        digest="",
        entry="",
        model="",
        prompt=caption(scene, colour=colour),
        seed=seed,
        num_inference_steps=catalog.num_inference_steps,
        guidance_scale=catalog.guidance_scale,
        num_frames=num_frames,
        height=SAMPLE_SIZE,
        width=SAMPLE_SIZE,
    )


def _travels(scene: Scene) -> bool:
    return scene.motion in ("left", "right", "up", "down", "bounce")


def _filled(values: Sequence[float], stand_in: Callable[[list[float]], float]) -> list[float]:
    """Return the values, with one of the known in place of each NaN."""
    known = [value for value in values if not math.isnan(value)]
    return [stand_in(known) if math.isnan(value) else value for value in values] if known else [math.nan]


def _share(right: Iterable[bool]) -> float:
    return float(np.mean(list(right)))


if __name__ == "__main__":
    run(main)
