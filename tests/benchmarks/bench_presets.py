"""What the presets cost and what comes out right, beside DDIM with 25 steps, in the sprite world.

    python -m tests.benchmarks.bench_presets                        # 8 clips, about 2 minutes of one core
    python -m tests.benchmarks.bench_presets --clips 200 --seeds 3  # the whole, about 3 hours of one core

Each round renders the same clips, prompts and seeds alike, with every preset in turn; a ratio is that of a round's
processor seconds, which other programs on the machine disturb least. The world's ground truth tells what is right: a
preset is within the margin, which was fixed before any was measured, if no share is worse by more than 3 points than
that of `quality`. The entries are the shipped base and its personalised forms, none of which the motion module saw.

For Stable Diffusion's own shape the ratios are counted, as a dry run reckons, and measured at half its width with
random weights, on clips that are small enough for a CPU.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.models.config import MotionConfig
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import EmbeddingFile, Entry, Lora
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.presets import PRESETS, PresetName
from animatediff.rendering.results.render_rate import work_units
from animatediff.sprites import shipped
from animatediff.sprites.clip_evaluation import Figures, clip_scenes, figures
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE
from animatediff.sprites.scenes.world import NEW_COLOUR, Scene, caption
from animatediff.sprites.scoring import style_of
from tests.benchmarks.bench_step import HALF_WIDTH, make_ours

MARGIN = 0.03
SHARES = ("shape", "colour", "style", "keeps_itself", "follows")
ENTRIES = {
    "base": Entry(name="base"),
    "lora-chalk": Entry(name="lora-chalk", loras=(Lora(path=str(shipped.CHALK_LORA)),)),
    "inversion-brown": Entry(name="inversion-brown", embeddings=(EmbeddingFile(path=str(shipped.BROWN_EMBEDDING)),)),
}
ROUND = 4
GUIDANCE, NUM_FRAMES = 5.0, 16
SMALL_CLIP = (4, 16)  # frames, and the latents' height and width


def preset_item(preset: PresetName, **settings) -> Item:
    """An item with the preset's settings."""
    values = {"digest": "", "entry": "", "model": "", "prompt": "", "seed": 0, "guidance_scale": GUIDANCE} | settings
    return Item(**values, **PRESETS[preset].settings)


def rounds(num_clips: int, num_seeds: int) -> Iterator[list[tuple[int, Scene]]]:
    """Yield the seeds and scenes of each round."""
    scenes = clip_scenes(num_clips)
    every = [(i + seed * num_clips, scene) for seed in range(num_seeds) for i, scene in enumerate(scenes)]
    yield from (every[i : i + ROUND] for i in range(0, len(every), ROUND))


def measure(
    animator: Animator, entry: Entry, num_clips: int, num_seeds: int
) -> tuple[dict[PresetName, Figures], dict[PresetName, list[float]]]:
    """What comes out right with each preset, and how many times as fast as `quality` each round was."""
    animator.load(entry)
    colour = NEW_COLOUR[0] if entry.embeddings else None
    clips: dict[PresetName, list[np.ndarray]] = defaultdict(list)
    speeds: dict[PresetName, list[float]] = defaultdict(list)
    shown: list[Scene] = []
    for chosen in rounds(num_clips, num_seeds):
        shown += [scene for _, scene in chosen]
        seconds: dict[PresetName, float] = {}
        for preset in PRESETS:
            size = {"num_frames": NUM_FRAMES, "height": SAMPLE_SIZE, "width": SAMPLE_SIZE}
            items = [
                preset_item(preset, prompt=caption(scene, colour=colour), seed=seed, **size) for seed, scene in chosen
            ]
            start = time.process_time()
            clips[preset] += [clip.frames for clip in animator.render_batch(items)]
            seconds[preset] = time.process_time() - start
        for preset, taken in seconds.items():
            speeds[preset].append(seconds["quality"] / taken)
    style = style_of(entry.name)
    return {preset: figures(found, shown, style=style, colour=colour) for preset, found in clips.items()}, speeds


def spread(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}"


def bench_sprites(names: Sequence[str], num_clips: int, num_seeds: int) -> None:
    animator = Animator(str(shipped.BASE), str(shipped.MOTION_MODULE), schedule=NoiseSchedule(), device="cpu")
    for name in names:
        found, speeds = measure(animator, ENTRIES[name], num_clips, num_seeds)
        for preset, shares in found.items():
            losses = {share: getattr(found["quality"], share) - getattr(shares, share) for share in SHARES}
            worst = max(losses, key=lambda share: losses[share])
            verdict = "within" if losses[worst] <= MARGIN else "BEYOND"
            print(
                f"{name}, {preset}, {num_clips} clips x {num_seeds} seeds: speed {spread(speeds[preset])}; "
                + ", ".join(f"{share} {getattr(shares, share):.1%}" for share in SHARES)
                + f", displacement {shares.displacement:.1f}, jitter {shares.jitter:.2f}; most lost: {worst} "
                f"{100 * losses[worst]:.1f} points, {verdict} the margin of {100 * MARGIN:.0f}",
                flush=True,
            )


def count_full_size() -> None:
    for architecture in ("sd1", "sdxl"):
        work = {preset: work_units(preset_item(preset), architecture) for preset in PRESETS}
        ratios = ", ".join(f"{preset} {work['quality'] / units:.2f}" for preset, units in work.items())
        print(f"{architecture}, counted operations of the UNet: {ratios} times quality", flush=True)


def bench_half_size(num_rounds: int = 3) -> None:
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    unet = make_ours(HALF_WIDTH, MotionConfig(use_mid_block=True)).eval()
    frames, size = SMALL_CLIP
    noise, text = torch.randn(1, 4, frames, size, size), torch.randn(2, 1, 77, 768)
    told = Conditioning(text[0], negative=Conditioning(text[1]))
    speeds: dict[PresetName, list[float]] = defaultdict(list)
    for _ in range(num_rounds):
        seconds: dict[PresetName, float] = {}
        for preset, (settings, _) in PRESETS.items():
            sampler = SAMPLERS[settings["sampler"]](NoiseSchedule(), settings["timestep_spacing"])
            rest = {name: value for name, value in settings.items() if name not in ("sampler", "timestep_spacing")}
            start = time.process_time()
            sample(unet, sampler, told, noise, guidance_scale=GUIDANCE, **rest)
            seconds[preset] = time.process_time() - start
        for preset, taken in seconds.items():
            speeds[preset].append(seconds["quality"] / taken)
    for preset, found in speeds.items():
        print(f"half width, {frames} x {size} x {size}, random weights, {preset}: {spread(found)} times quality")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--entries", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count_full_size()
    bench_sprites(arguments.entries, arguments.clips, arguments.seeds)
    bench_half_size()


if __name__ == "__main__":
    main()
