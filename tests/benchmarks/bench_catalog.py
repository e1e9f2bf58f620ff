"""A catalog beside the loop that a user would write with diffusers: 12 checkpoints with 4 prompts each.

    python -m tests.benchmarks.bench_catalog               # 25 steps with guidance, the reference's way
    python -m tests.benchmarks.bench_catalog --steps 4     # 4 steps without, as few-step motion modules have it

Both render the same prompts with the same checkpoints, steps and sizes on the sprite world's shipped base, and write an
MP4 and a GIF of each clip. The loop is a process of its own that builds an `AnimateDiffPipeline` for each checkpoint;
its imports are not counted, as the job's start of a cluster is not. They are run in turn in every round; the ratio of
a round is their quotient. What the job spends beside the UNet and the VAE is told from its results table.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import yaml
from diffusers import UNet2DConditionModel

from animatediff.models.motion_unet import MotionModules
from animatediff.sprites import shipped
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet

NUM_CHECKPOINTS, ROUNDS = 12, 3
PROMPTS = [
    "a large red circle moving left on a blue background",
    "a small green star moving up on a white background",
    "a large yellow heart bouncing on a black background",
    "a small purple square turning on a beige background",
]
SIZE, NUM_FRAMES, GUIDANCE = 64, 16, 5.0


def write_checkpoints(folder):
    """The base's UNet with a little noise of each checkpoint's own, as diffusers folders."""
    paths = []
    for seed in range(NUM_CHECKPOINTS):
        unet = load_unet(str(shipped.BASE))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.01 * parameter.std(correction=0))
        path = folder / f"checkpoint-{seed}"
        unet.save_pretrained(path / "unet")
        paths.append(path)
    return paths


def loop(folder, steps, guidance):
    """What a user would write with diffusers; seconds and peak memory of the process."""
    from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler, MotionAdapter
    from transformers import CLIPTextModel, CLIPTokenizer

    from animatediff.rendering.outputs import encode_gif, encode_mp4
    from tests.benchmarks.bench_step import forget_peak, peak_gib

    base, out = shipped.BASE, folder / "loop"
    out.mkdir(exist_ok=True)
    forget_peak()
    start = time.perf_counter()
    for checkpoint in sorted(folder.glob("checkpoint-*")):
        pipe = AnimateDiffPipeline(
            vae=AutoencoderKL.from_pretrained(base / "vae"),
            text_encoder=CLIPTextModel.from_pretrained(base / "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(base / "tokenizer"),
            unet=UNet2DConditionModel.from_pretrained(checkpoint / "unet"),
            motion_adapter=MotionAdapter.from_pretrained(folder / "adapter"),
            scheduler=DDIMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False),
        )
        pipe.set_progress_bar_config(disable=True)
        for number, prompt in enumerate(PROMPTS):
            frames = pipe(
                prompt,
                num_frames=NUM_FRAMES,
                height=SIZE,
                width=SIZE,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=torch.Generator().manual_seed(0),
                output_type="np",
            ).frames[0]
            pixels = (frames * 255).round().astype("uint8")
            stem = out / f"{checkpoint.name}-{number}"
            stem.with_suffix(".mp4").write_bytes(encode_mp4(pixels, fps=8))
            stem.with_suffix(".gif").write_bytes(encode_gif(pixels, fps=8))
    print(json.dumps({"seconds": time.perf_counter() - start, "gib": peak_gib()}))


def without_captions(motion):
    """Motion modules without the attention to captions, which diffusers does not know."""
    unet = load_unet(str(shipped.BASE))
    blind = MotionModules.for_base(unet, motion.config.model_copy(update={"text_width": None}))
    weights = motion.state_dict()
    blind.load_state_dict({name: weights[name] for name in blind.state_dict()})
    return blind


def write_catalog(folder, steps, guidance):
    content = {
        "base": str(shipped.BASE),
        "motion_module": str(folder / "motion_module.safetensors"),
        "width": SIZE,
        "height": SIZE,
        "num_frames": NUM_FRAMES,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "prompts": PROMPTS,
        "entries": [{"name": path.name, "checkpoint": str(path)} for path in sorted(folder.glob("checkpoint-*"))],
    }
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


class Peak(threading.Thread):
    """The most memory that one render actor holds, and all together."""

    def __init__(self):
        super().__init__(daemon=True)
        self.one = self.all = 0.0
        self._ended = threading.Event()

    def run(self):
        while not self._ended.wait(0.1):
            held = [gib for gib in map(rss_of_actor, Path("/proc").glob("[0-9]*")) if gib]
            self.one, self.all = max([self.one, *held]), max(self.all, sum(held))

    def end(self):
        self._ended.set()
        self.join()


def rss_of_actor(process):
    try:
        if b"RenderSlices" not in (process / "cmdline").read_bytes():
            return 0.0
        return int((process / "statm").read_text().split()[1]) * 4096 / 2**30
    except OSError:
        return 0.0


def job(folder, number, catalog):
    """Our job on a cluster that runs; its seconds, what its actors held, and its rows."""
    from animatediff.rendering.results.ledger import read_results
    from pipelines.animate import main
    from pipelines.settings import AnimateConfig

    output = str(folder / f"job-{number}")
    peak = Peak()
    peak.start()
    start = time.perf_counter()
    main(AnimateConfig(catalog_uri=str(catalog), output_uri=output))
    taken = time.perf_counter() - start
    peak.end()
    return taken, peak, read_results(output)


def stages(results):
    """Seconds by stage, over all items."""
    names = results[0].seconds
    return {name: sum(result.seconds[name] for result in results) for name in names}


def compare(folder, steps, guidance):
    catalog = write_catalog(folder, steps, guidance)
    ours, theirs = [], []
    for number in range(ROUNDS):
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.bench_catalog",
            "--loop",
            str(folder),
            str(steps),
            str(guidance),
        ]
        told = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        theirs.append(told["seconds"])
        taken, peak, results = job(folder, f"{steps}-{number}", catalog)
        ours.append(taken)
        spent = stages(results)
        print(
            f"round {number}: loop {theirs[-1]:.1f} s at {told['gib']:.2f} GiB, job {ours[-1]:.1f} s at {peak.one:.2f} "
            f"GiB an actor, {peak.all:.2f} all; ratio {theirs[-1] / ours[-1]:.2f}; seconds by stage "
            + ", ".join(f"{name} {taken:.1f}" for name, taken in spent.items()),
            flush=True,
        )
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    print(f"{steps} steps: loop / job: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
    computing, rest = spent["unet"] + spent["vae"], spent["load"] + spent["text"]
    print(f"beside UNet and VAE an actor spends {rest / (rest + computing):.1%} on loading and text (the last round)")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--loop", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        folder, steps, guidance = arguments.loop
        loop(Path(folder), int(steps), float(guidance))
        return
    from pipelines.cluster.runtime import connect
    from pipelines.terminal.logs import configure_logging

    configure_logging()
    connect()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoints(folder)
        motion = without_captions(motion_modules.read(str(shipped.MOTION_MODULE)))
        motion_modules.write(str(folder / "motion_module.safetensors"), motion)
        motion_modules.write(str(folder / "adapter"), motion, to="diffusers")
        compare(folder, arguments.steps, GUIDANCE if arguments.steps >= 10 else 1.0)


if __name__ == "__main__":
    main()
