"""bfloat16 beside float32 on this machine: seconds, what comes out right, and what training minimises.

    python -m tests.benchmarks.bench_precision                     # all parts, about 25 minutes of one core
    python -m tests.benchmarks.bench_precision speed quality       # some: speed, rendering, step, quality, loss

Ratios are those of a round's processor seconds, which other programs on the machine disturb least; both precisions take
their turn in every round. `speed`, `rendering` and `step` have Stable Diffusion 1.5's shape at half or full width, v2's
motion modules, and random weights. `quality` renders the same clips of the sprite world twice, for its ground truth to
tell what is right. `loss` trains a fresh motion module on the world's base twice, on the same clips, noise and
timesteps: the curves' means over 50 steps are told, and must agree within 1 %.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.models.computing import processor
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import Entry
from animatediff.sprites import shipped
from animatediff.sprites.clip_evaluation import clip_scenes, figures
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE
from animatediff.sprites.scenes.world import caption, sample_scenes
from animatediff.sprites.train_sparse_control import write_clips
from animatediff.training.config import TrainingConfig
from animatediff.training.settings import ObjectiveConfig
from animatediff.training.step.denoising_loss import DenoisingLoss
from animatediff.training.step.draws import Draws
from animatediff.training.trained_model import ClipModel, place_on_device
from animatediff.training.trainer import Trainer
from tests.benchmarks.bench_presets import SHARES, preset_item
from tests.benchmarks.bench_step import FULL_WIDTH, HALF_WIDTH, make_ours

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZES = {"half width": (HALF_WIDTH, (16, 16), 5), "full width": (FULL_WIDTH, (4, 16), 3)}
"""Widths, frames and the latents' side, and rounds."""
RENDERED, STEPPED = (4, 16), (8, 16)
NUM_CLIPS, NUM_STEPS, BLOCK = 20, 300, 50
LOSS_MARGIN = 0.01


def told(dtype: torch.dtype) -> Conditioning:
    text = torch.randn(2, 1, 77, 768, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Conditioning(text[0], negative=Conditioning(text[1]))


def latents(frames: int, size: int) -> torch.Tensor:
    return torch.randn(1, 4, frames, size, size, generator=torch.Generator().manual_seed(2))


def compare(what: str, runs: Mapping[str, Callable[[], object]], rounds: int) -> None:
    """Print how many times as fast as the first run the second one is."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    first, second = seconds
    ratios = [a / b for a, b in zip(seconds[first], seconds[second], strict=True)]
    medians = ", ".join(f"{name} {statistics.median(found):.2f} s" for name, found in seconds.items())
    spread = f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{what}: {medians}; {second} is {spread} times as fast", flush=True)


def unets(widths: tuple[int, ...]) -> dict[str, MotionUNet]:
    torch.manual_seed(0)
    unet = make_ours(widths, MotionConfig(use_mid_block=True)).eval()
    return {name: copy.deepcopy(unet).to(dtype) for name, dtype in DTYPES.items()}


def forward(unet: MotionUNet, noisy: torch.Tensor) -> Callable[[], torch.Tensor]:
    dtype = unet.base.dtype
    return lambda: unet(noisy.to(dtype), 500, Conditioning(told(dtype).text))


@torch.no_grad()
def bench_speed() -> None:
    for name, (widths, clip, rounds) in SIZES.items():
        runs = {key: forward(unet, latents(*clip)) for key, unet in unets(widths).items()}
        compare(f"forward, {name}, {clip[0]} x {clip[1]} x {clip[1]}", runs, rounds)
        found, wanted = (runs[key]().float() for key in ("bfloat16", "float32"))
        print(f"forward, {name}: bfloat16's prediction differs by {(found - wanted).norm() / wanted.norm():.2%}")


@torch.no_grad()
def bench_rendering() -> None:
    models, noise = unets(HALF_WIDTH), latents(*RENDERED)

    def rendered(name: str) -> torch.Tensor:
        sampler = SAMPLERS["ddim"](NoiseSchedule(), None)
        return sample(models[name], sampler, told(DTYPES[name]), noise, guidance_scale=8.0, num_inference_steps=4)

    frames, size = RENDERED
    what = f"rendering, half width, {frames} x {size} x {size}, DDIM 4 with guidance"
    compare(what, {name: lambda name=name: rendered(name) for name in DTYPES}, rounds=3)


def bench_step() -> None:
    frames, size = STEPPED
    models = {}
    for name, unet in unets(HALF_WIDTH).items():
        unet.float()
        models[name] = ClipModel(unet, unet.motion)
        place_on_device(models[name], CPU, DTYPES[name])
    loss = DenoisingLoss(compute_alphas_cumprod(NoiseSchedule()), "epsilon", ObjectiveConfig())
    optimizers = {name: torch.optim.AdamW(model.trainable.parameters(), fused=True) for name, model in models.items()}

    def step(name: str) -> None:
        clean, noise = latents(frames, size), latents(frames, size).flip(2)
        given = Draws(noise, torch.tensor([500]), [False], [0], [[]], uniform=torch.zeros(1))
        loss(models[name], clean, Conditioning(told(DTYPES[name]).text), given).sum().backward()
        optimizers[name].step()
        optimizers[name].zero_grad()

    what = f"training step, half width, {frames} x {size} x {size}"
    compare(what, {name: lambda name=name: step(name) for name in DTYPES}, rounds=5)


def bench_quality() -> None:
    scenes = clip_scenes(NUM_CLIPS)
    base, motion = str(shipped.BASE), str(shipped.MOTION_MODULE)
    found, seconds = {}, {}
    for name in DTYPES:
        animator = Animator(base, motion, schedule=NoiseSchedule(), device="cpu", precision=name)
        animator.load(Entry(name="base"))
        size = {"num_frames": 16, "height": SAMPLE_SIZE, "width": SAMPLE_SIZE}
        items = [preset_item("fast", prompt=caption(scene), seed=i, **size) for i, scene in enumerate(scenes)]
        start = time.process_time()
        found[name] = [animator.render(item) for item in items]
        seconds[name] = time.process_time() - start
        shares = figures(found[name], scenes, style="plain")
        right = ", ".join(f"{share} {getattr(shares, share):.1%}" for share in SHARES)
        print(
            f"quality, {name}, {NUM_CLIPS} clips of preset fast in {seconds[name]:.0f} s: {right}, displacement "
            f"{shares.displacement:.1f}, jitter {shares.jitter:.2f}",
            flush=True,
        )
    levels = [abs(a.astype(int) - b).mean() for a, b in zip(*found.values(), strict=True)]
    print(f"quality: pixels differ by {statistics.mean(levels):.2f} levels of 255 in the mean")


def bench_loss() -> None:
    curves: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder, "dataset")
        write_clips(dataset, sample_scenes(64, 21_000_000), str(shipped.BASE))
        for precision in DTYPES:
            config = TrainingConfig(
                dataset_uri=str(dataset),
                base=str(shipped.BASE),
                optim={"lr": 1e-3, "warmup_steps": 20},
                train={"num_steps": NUM_STEPS, "batch_size": 1, "seed": 1},
                compute={"precision": precision},
            )
            start = time.process_time()
            sums = [result.loss_sums.sum(dim=1) for _, result in Trainer(config, device=CPU).steps(0)]
            curves[precision] = [float(total / number) for total, number in sums]
            print(f"loss, {precision}: {NUM_STEPS} steps in {time.process_time() - start:.0f} s", flush=True)
    wide, half = curves.values()
    worst = 0.0
    for first in range(0, NUM_STEPS, BLOCK):
        means = [statistics.mean(curve[first : first + BLOCK]) for curve in (wide, half)]
        ratio = means[1] / means[0] - 1
        worst = max(worst, abs(ratio))
        print(f"loss, steps {first} to {first + BLOCK}: {means[0]:.5f}, bfloat16 {means[1]:.5f} ({ratio:+.2%})")
    verdict = "within" if worst <= LOSS_MARGIN else "BEYOND"
    print(f"loss: {worst:.2%} apart at most, {verdict} the margin of {LOSS_MARGIN:.0%}")


PARTS = {
    "speed": bench_speed,
    "rendering": bench_rendering,
    "step": bench_step,
    "quality": bench_quality,
    "loss": bench_loss,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parts = parser.parse_args().parts or list(PARTS)
    torch.set_num_threads(1)
    print(f"this processor {'multiplies' if processor.multiplies_bfloat16() else 'emulates'} bfloat16")
    for part in parts:
        PARTS[part]()


if __name__ == "__main__":
    main()
