"""Clips of 64, 128 and 256 frames by overlapping windows of 16: seconds, memory, and whether a seam can be seen.

    python -m tests.benchmarks.bench_length                 # about 10 minutes on 2 cores
    python -m tests.benchmarks.bench_length --sheets FOLDER  # and keeps the frames, to look at
    python -m tests.benchmarks.bench_length --controls       # 96 frames led by a video instead, about 6 minutes

The sprite world's shipped base and motion module, prompts whose 16 frames keep their subject. Memory and processor
seconds, which no neighbour stretches, are of the denoising alone, each length in a process of its own; decoding goes
by chunks anyway.

A seam would be a larger difference between two frames in a row where one window ends and another begins. The rank of
a difference is the share of the clip's own differences that are smaller: 0.5 on average where nothing is special.
Windows side by side without overlap show what a seam is; clips that are no loops, what a loop's end would be without.

Led by a video: a SparseCtrl encoder is shown a picture of every frame, of shapes that go back and forth. Beside seams
it tells how far the subject is from where the video has it, at the frames where a window begins or ends and elsewhere,
and the memory with and without the network, of a clip that is one window and of one that is many.
"""

import argparse
import ctypes
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from animatediff.diffusion import sampling
from animatediff.diffusion.conditioning import Conditioning, Control
from animatediff.diffusion.context import Context, context_windows
from animatediff.diffusion.initial_noise import initial_noise
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.text_encoder import PromptEncoder
from animatediff.models.vae import encode_frames
from animatediff.sprites.clip_evaluation import clip_scenes
from animatediff.sprites.readings.clips import measure_clip
from animatediff.sprites.readings.pictures import read
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import caption
from animatediff.sprites.shipped import BASE, MOTION_MODULE, SPARSE_CONTROL
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.controls import sparse_control_file
from tests.benchmarks.bench_step import forget_peak, peak_gib

LENGTHS = (64, 128, 256)
CONTEXT = Context()
MAX_BATCH = 4
NUM_STEPS, NUM_TIMED_STEPS = 25, 3
# Of the evaluation's scenes; 16 frames of each keep their shape and colour throughout.
SCENES = (16, 31, 8, 25)
SIZE, CHANNELS = 8, 8  # of the latents of 64 x 64 pixels
SIDE = 64
TRAVELS = ("left", "right", "up", "down", "bounce")
WHOLE, CONTROLLED = 32, 96  # frames of clips led by a video; the motion module's positions end at 32


def load_sampler():
    """A function from (prompt, noise) and settings to latents; `controls` are as in `Conditioning`."""
    unet = MotionUNet(load_unet(str(BASE)), motion_modules.read(str(MOTION_MODULE))).requires_grad_(False).eval()
    prompts = PromptEncoder(*load_text_encoder(str(BASE)))

    def sample(prompt, noise, controls=(), **settings):
        negative, text = prompts.encode(["", prompt]).split(1)
        told = Conditioning(text, negative=Conditioning(negative), controls=controls)
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

    def rendered(name, num_frames, context, loop=False, seeds=SCENES):
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
        clips[num_frames] = rendered(str(num_frames), num_frames, CONTEXT, seeds=seeds)
        report(f"{num_frames} frames, borders of windows", clips[num_frames], borders(num_frames))
    short, one = LENGTHS[0], CONTEXT.length
    apart = keep("side_by_side", [side_by_side(sample, prompts[seed], seed, short) for seed in SCENES])
    report(f"{short} frames, windows side by side", apart, list(range(one - 1, short - 1, one)))
    for num_frames, context in ((short, CONTEXT), (one, None)):
        plain = clips.get(num_frames) or rendered(str(num_frames), num_frames, context)
        looped = rendered(f"{num_frames}_loop", num_frames, context, loop=True)
        for name, found in (("no loop", plain), ("loop", looped)):
            report(f"{num_frames} frames, {name}, last to first", found, [num_frames - 1], loop=True)


def write_sheet(path, clips, columns=32):
    rows = []
    for clip in clips:
        padded = np.concatenate([clip, np.zeros((-len(clip) % columns, *clip.shape[1:]), np.uint8)])
        rows += [np.concatenate(list(row), axis=1) for row in padded.reshape(-1, columns, *clip.shape[1:])]
        rows.append(np.full((4, rows[-1].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.concatenate(rows)).save(path)


def drawn_video(scene, num_frames):
    """The scene's 16 frames, forwards and backwards in turn. (f h w 3)."""
    there = render(scene, num_frames=CONTEXT.length, height=SIDE, width=SIDE)
    return np.concatenate([there, there[::-1]] * -(-num_frames // (2 * CONTEXT.length)))[:num_frames]


def controls_of(network, vae, video):
    """The network with a picture for every frame, as a clip's `controls`."""
    latents = encode_frames(vae, video)  # f c h w
    pictures = torch.from_numpy(latents).float().transpose(0, 1)[None] * vae.config.scaling_factor
    condition = network.embed(pictures, range(len(video)), len(video))
    return (Control(network, condition, torch.ones(1, len(video))),)


def load_network():
    return sparse_control_file.open_file(str(SPARSE_CONTROL)).build(load_unet(str(BASE)).config, str(BASE))


def bench_controls(folder):
    sample, vae, network = load_sampler(), load_vae(str(BASE)).requires_grad_(False).eval(), load_network()
    # Of those that move, since a rank among differences of 0 says nothing.
    travelling = [(seed, scene) for seed, scene in enumerate(clip_scenes(32)) if scene.motion in TRAVELS]
    scenes = dict(travelling[: len(SCENES)])
    for num_frames, contexts in ((WHOLE, (None, CONTEXT)), (CONTROLLED, (CONTEXT,))):
        videos = [drawn_video(scene, num_frames) for scene in scenes.values()]
        report(f"{num_frames} frames, the video itself", videos, borders(num_frames))
        for context in contexts:
            clips = []
            for (seed, scene), video in zip(scenes.items(), videos, strict=True):
                told = {"controls": controls_of(network, vae, video), "context": context}
                clips.append(decode(vae, sample(caption(scene), noise_for(seed, num_frames, context), **told)))
            name = f"{num_frames} frames, {'windows' if context else 'one window'}, led by it"
            report(name, clips, borders(num_frames))
            report_distances(clips, videos, borders(num_frames))
            if folder:
                pairs = [each for pair in zip(videos, clips, strict=True) for each in pair]
                write_sheet(folder / f"controls_{num_frames}_{'windows' if context else 'whole'}.png", pairs)
    for num_frames in (CONTEXT.length, CONTROLLED):
        alone, led = (child(num_frames, *controls)[0] for controls in (["--memory"], ["--memory", "--controls"]))
        print(f"{num_frames} frames: {alone:.1f} MiB beside the base, with the network {led:.1f} ({led - alone:+.1f})")


def report_distances(clips, videos, where):
    """How far subjects are from where the videos have them, in pixels of 64."""
    found = [[off(*pair) for pair in zip(clip, video, strict=True)] for clip, video in zip(clips, videos, strict=True)]
    at = sorted({frame for border in where for frame in (border, border + 1)})
    there = np.nanmean([[clip[frame] for frame in at] for clip in found])
    print(f"    subject off the video's by {np.nanmean(found):.2f} pixels, at borders {there:.2f}", flush=True)


def off(frame, given):
    poses = read(frame).pose, read(given).pose
    return SIDE * np.hypot(poses[0].x - poses[1].x, poses[0].y - poses[1].y) if all(poses) else np.nan


def memory_child(num_frames, *, is_led):
    """The most that sampling takes, one window at a time, with the network's weights and its condition, in MiB."""
    sample, vae = load_sampler(), load_vae(str(BASE)).requires_grad_(False).eval()
    settings = {"context": CONTEXT, "num_inference_steps": 1, "max_batch": 1}
    sample("", noise_for(0, CONTEXT.length, CONTEXT), **settings)  # warms up
    before = held_gib()
    if is_led:
        settings["controls"] = controls_of(load_network(), vae, drawn_video(clip_scenes(1)[0], num_frames))
        held_gib()  # the VAE's share in it, which has many frames at a time, is not sampling's
    sample("", noise_for(0, num_frames, CONTEXT), **settings)
    print((peak_gib() - before) * 1024)


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


def held_gib():
    """What is held now, without what the allocator keeps for later; the peak is counted from here on."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    forget_peak()
    return peak_gib()


def child(num_frames, *arguments):
    """What a process of its own prints, as numbers."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_length", "--child", str(num_frames), *arguments]
    return list(map(float, subprocess.check_output(command, text=True).split()))


def bench_cost():
    first = None
    for num_frames in LENGTHS:
        seconds, peak = child(num_frames)
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
    parser.add_argument("--controls", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child and arguments.memory:
        memory_child(arguments.child, is_led=arguments.controls)
    elif arguments.child:
        cost_child(arguments.child)
    elif arguments.controls:
        bench_controls(arguments.sheets)
    else:
        bench_cost()
        bench_seams(arguments.sheets)


if __name__ == "__main__":
    main()
