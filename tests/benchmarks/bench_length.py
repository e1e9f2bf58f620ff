"""Clips of 64, 128 and 256 frames by overlapping windows of 16: seconds, memory, and whether a seam can be seen.

    python -m tests.benchmarks.bench_length                 # about 10 minutes on 2 cores
    python -m tests.benchmarks.bench_length --sheets FOLDER  # and keeps the frames, to look at

The sprite world's shipped base and motion module, prompts whose 16 frames keep their subject. Memory and processor
seconds, which no neighbour stretches, are of the denoising alone, each length in a process of its own; decoding goes
by chunks anyway.

A seam would be a larger difference between two frames in a row where one window ends and another begins. The rank of
a difference is the share of the clip's own differences that are smaller: 0.5 on average where nothing is special.
Windows side by side without overlap show what a seam is; clips that are no loops, what a loop's end would be without.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from animatediff.diffusion import sampling
from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context, context_windows
from animatediff.diffusion.initial_noise import initial_noise
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.text_encoder import PromptEncoder
from animatediff.sprites.clip_evaluation import clip_scenes
from animatediff.sprites.readings.clips import measure_clip
from animatediff.sprites.scenes.world import caption
from animatediff.sprites.shipped import BASE, MOTION_MODULE
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from tests.benchmarks.bench_step import forget_peak, peak_gib

LENGTHS = (64, 128, 256)
CONTEXT = Context()
MAX_BATCH = 4
NUM_STEPS, NUM_TIMED_STEPS = 25, 3
# Of the evaluation's scenes; 16 frames of each keep their shape and colour throughout.
SCENES = (16, 31, 8, 25)
SIZE, CHANNELS = 8, 8  # of the latents of 64 x 64 pixels


def load_sampler():
    """A function from (prompt, noise) and settings to latents."""
    unet = MotionUNet(load_unet(str(BASE)), motion_modules.read(str(MOTION_MODULE))).requires_grad_(False).eval()
    prompts = PromptEncoder(*load_text_encoder(str(BASE)))

    def sample(prompt, noise, **settings):
        negative, text = prompts.encode(["", prompt]).split(1)
        told = Conditioning(text, negative=Conditioning(negative))
        sampler = SAMPLERS["ddim"](NoiseSchedule())
        settings = {"num_inference_steps": NUM_STEPS, "guidance_scale": 5.0, "max_batch": MAX_BATCH} | settings
        return sampling.sample(unet, sampler, told, noise, **settings)

    return sample


def noise_for(seed, num_frames, context, loop=False):
    shape = (1, CHANNELS, num_frames, SIZE, SIZE)
    return initial_noise(shape, torch.Generator().manual_seed(seed), context, loop)


@torch.no_grad()
def decode(vae, latents):
    chunks = (latents[0].transpose(0, 1) / vae.config.scaling_factor).split(8)
    pixels = torch.cat([vae.decode(chunk).sample for chunk in chunks])
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def differences(frames, loop=False):
    """Mean absolute difference of each frame to the next; of a loop, the last one's to the first too."""
    frames = frames.astype(np.float32)
    following = np.roll(frames, -1, axis=0) if loop else frames[1:]
    return np.abs(following - frames[: len(following)]).mean(axis=(1, 2, 3))


def ranks(values):
    """The share of the other values that are smaller."""
    return np.argsort(np.argsort(values)) / (len(values) - 1)


def borders(num_frames):
    """Index into `differences` of where a window begins or ends within the clip."""
    found = context_windows(num_frames, CONTEXT, loop=False, progress=0.0)
    return sorted({window[0] - 1 for window in found[1:]} | {window[-1] for window in found[:-1]})


def side_by_side(sample, prompt, seed, num_frames):
    """Windows without overlap."""
    noise = noise_for(seed, num_frames, None)
    return torch.cat([sample(prompt, part) for part in noise.split(CONTEXT.length, dim=2)], dim=2)


def report(name, clips, where, loop=False):
    """A line: the ranks of the differences at the indices `where`, and what the subject does."""
    found = [differences(clip, loop) for clip in clips]
    at = np.concatenate([ranks(values)[where] for values in found])
    excess = np.mean([values[where].mean() / values.mean() for values in found])
    largest = np.mean([values.max() / values.mean() for values in found])
    kept = np.mean([kept_share(measure_clip(clip).readings) for clip in clips])
    print(
        f"{name:<40} rank: median {np.median(at):.2f}, mean {at.mean():.2f}; difference {excess:.2f} of the mean "
        f"one, the largest anywhere {largest:.1f}; subject kept in {kept:.1%} of the frames",
        flush=True,
    )


def kept_share(readings):
    looks = [(reading.shape, reading.colour) for reading in readings]
    return max(map(looks.count, looks)) / len(looks)


def bench_seams(folder):
    sample, vae = load_sampler(), load_vae(str(BASE)).requires_grad_(False).eval()
    scenes = clip_scenes(max(SCENES) + 1)
    prompts = {seed: caption(scenes[seed]) for seed in SCENES}

    def render(name, num_frames, context, loop=False, seeds=SCENES):
        noises = {seed: noise_for(seed, num_frames, context, loop) for seed in seeds}
        return keep(name, [sample(prompts[seed], noises[seed], context=context, loop=loop) for seed in seeds])

    def keep(name, latents):
        clips = [decode(vae, clip) for clip in latents]
        if folder:
            write_sheet(folder / f"length_{name}.png", clips)
        return clips

    clips = {}
    for num_frames in LENGTHS:
        seeds = SCENES[: max(1, LENGTHS[0] * len(SCENES) // num_frames)]
        clips[num_frames] = render(str(num_frames), num_frames, CONTEXT, seeds=seeds)
        report(f"{num_frames} frames, borders of windows", clips[num_frames], borders(num_frames))
    short, one = LENGTHS[0], CONTEXT.length
    apart = keep("side_by_side", [side_by_side(sample, prompts[seed], seed, short) for seed in SCENES])
    report(f"{short} frames, windows side by side", apart, list(range(one - 1, short - 1, one)))
    for num_frames, context in ((short, CONTEXT), (one, None)):
        plain = clips.get(num_frames) or render(str(num_frames), num_frames, context)
        looped = render(f"{num_frames}_loop", num_frames, context, loop=True)
        for name, found in (("no loop", plain), ("loop", looped)):
            report(f"{num_frames} frames, {name}, last to first", found, [num_frames - 1], loop=True)


def write_sheet(path, clips, columns=32):
    rows = []
    for clip in clips:
        padded = np.concatenate([clip, np.zeros((-len(clip) % columns, *clip.shape[1:]), np.uint8)])
        rows += [np.concatenate(list(row), axis=1) for row in padded.reshape(-1, columns, *clip.shape[1:])]
        rows.append(np.full((4, rows[-1].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.concatenate(rows)).save(path)


def cost_child(num_frames):
    torch.set_num_threads(1)  # threads that wait for each other count as processor seconds, too
    sample = load_sampler()
    noise = noise_for(0, num_frames, CONTEXT)
    settings = {"context": CONTEXT, "num_inference_steps": NUM_TIMED_STEPS}
    sample("", noise_for(0, 4 * CONTEXT.length, CONTEXT), **settings)  # warms up, and fills the allocator's pools
    forget_peak()
    start = time.process_time()
    sample("", noise, **settings)
    print(time.process_time() - start, peak_gib() * 1024)


def bench_cost():
    first = None
    for num_frames in LENGTHS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_length", "--child", str(num_frames)]
        seconds, peak = map(float, subprocess.check_output(command, text=True).split())
        first = first or (seconds / num_frames, peak)
        latents = num_frames * CHANNELS * SIZE * SIZE * 4 / 2**20
        print(
            f"{num_frames} frames: {seconds:.1f} s for {NUM_TIMED_STEPS} steps, {1e3 * seconds / num_frames:.0f} ms "
            f"each ({seconds / num_frames / first[0]:.2f} of the shortest's); peak {peak:.1f} MiB "
            f"({peak - first[1]:+.1f}), the latents are {latents:.2f} MiB",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        cost_child(arguments.child)
    else:
        bench_cost()
        bench_seams(arguments.sheets)


if __name__ == "__main__":
    main()
