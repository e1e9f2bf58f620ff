"""Whether clips move as their prompts say, with motion modules that know the prompt and with those that do not.

    python -m tests.benchmarks.bench_text_motion FILE [FILE ...]

Each file is a motion module for the sprite world's shipped base. All render the same prompts from the same noise; the
world's ground truth tells what moved. The table has a row a motion, and a column of right clips a file.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from animatediff.sprites import shipped
from animatediff.sprites.readings.clips import follows, measure_clip
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE
from animatediff.sprites.scenes.world import MOTIONS, Scene, caption, sample_scenes

NUM_PROMPTS = 80
MAIN = ("left", "right", "up", "down", "bounce")
"""Five motions that need no more of the base than to draw its shapes upright and in one size."""

_SEED = 5_000_000  # other scenes than those of any data set
_NUM_FRAMES, _NUM_STEPS, _GUIDANCE = 16, 25, 5.0


def scenes_of(motion: str, num: int) -> list[Scene]:
    """The first scenes of a motion."""
    return [scene for scene in sample_scenes(num * len(MOTIONS) * 2, _SEED) if scene.motion == motion][:num]


def render(animator: Animator, scene: Scene, seed: int) -> np.ndarray:
    """(f h w 3) uint8."""
    return animator.render(
        Item(
            digest="",
            entry="",
            model="",
            prompt=caption(scene),
            seed=seed,
            num_inference_steps=_NUM_STEPS,
            guidance_scale=_GUIDANCE,
            num_frames=_NUM_FRAMES,
            height=SAMPLE_SIZE,
            width=SAMPLE_SIZE,
        )
    )


def main(files: list[str], motions: tuple[str, ...], num_prompts: int) -> None:
    """Render and count."""
    torch.set_grad_enabled(False)
    animators = [Animator(str(shipped.BASE), file, schedule=NoiseSchedule(), device="cpu") for file in files]
    for animator in animators:
        animator.load(Entry(name="base", prompts=("",)))
    each = num_prompts // len(motions)
    totals = [0] * len(files)
    print(f"{'motion':10}  " + "  ".join(f"{Path(file).stem[:24]:>24}" for file in files))
    for motion in motions:
        right = [0] * len(files)
        for i, scene in enumerate(scenes_of(motion, each)):
            for k, animator in enumerate(animators):
                right[k] += follows(measure_clip(render(animator, scene, i)), motion)
        totals = [total + number for total, number in zip(totals, right, strict=True)]
        print(f"{motion:10}  " + "  ".join(f"{number:>21}/{each:<2}" for number in right), flush=True)
    print(f"{'all':10}  " + "  ".join(f"{total / (each * len(motions)):>24.1%}" for total in totals))


if __name__ == "__main__":
    main(sys.argv[1:], MAIN, NUM_PROMPTS)
