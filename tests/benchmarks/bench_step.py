"""A forward pass and a training step beside diffusers' UNetMotionModel, and what activation checkpointing costs.

    python -m tests.benchmarks.bench_step               # speed, peak memory, and where the seconds go
    python -m tests.benchmarks.bench_step --full-size   # Stable Diffusion 1.5's own size: 17 GiB of memory, minutes

Both models have Stable Diffusion 1.5's shape at half width, v2's motion modules, the same weights and SDPA; neither is
compiled. diffusers takes the statistics of the motion modules' GroupNorm over the clip, so both do. They are run in
turn in every round; the ratio of a round is their quotient, of wall seconds and, on a CPU, of processor seconds, which
other programs on the machine disturb less (OMP_NUM_THREADS=1 keeps idle threads from spinning in them). Only the motion
modules are trained. Where a CPU emulates bfloat16 it is measured on a smaller clip. Peak memory is
measured in a process of its own. The seconds that both models spend in the same kernels of torch bound the ratio.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.profiler import profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from animatediff.diffusion.conditioning import Conditioning
from animatediff.models.computing import processor
from animatediff.models.config import MotionConfig
from animatediff.models.motion_module import TemporalAttention
from animatediff.models.motion_unet import MotionUNet
from animatediff.weights import motion_modules

ROUNDS = 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF_WIDTH, FULL_WIDTH = (160, 320, 640, 640), (320, 640, 1280, 1280)
CLIP = (16, 32)  # frames, and the latents' height and width
SMALL_CLIP, TINY_CLIP = (4, 8), (1, 8)
MODELS = ("ours", "diffusers")
CHECKPOINTING = ("none", "motion", "all")
TASKS = ("forward", "step")
PARTS = {
    "convolutions": nn.Conv2d,
    "motion attention": TemporalAttention,
    "spatial attention": Attention,
    "feed-forward": FeedForward,
    "norms": (nn.GroupNorm, nn.LayerNorm),
}
KERNELS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "convolutions": ("aten::mkldnn_convolution", "aten::cudnn_convolution", "aten::convolution_backward"),
    "fused attention": ("aten::_scaled_dot_product",),
}


def make_ours(widths, config):
    base = UNet2DConditionModel(
        sample_size=CLIP[1], block_out_channels=widths, cross_attention_dim=768, attention_head_dim=8
    )
    unet = MotionUNet(base, config).train()
    for name, parameter in unet.motion.named_parameters():
        if "proj_out" in name:  # zero at first: they would hide what is before them
            nn.init.normal_(parameter, std=0.02)
    return unet


def make_peer(ours):
    with tempfile.TemporaryDirectory() as folder:
        motion_modules.write(folder, ours.motion, to="diffusers")
        adapter = MotionAdapter.from_pretrained(folder)
    peer = UNetMotionModel.from_unet2d(ours.base, adapter)
    peer.freeze_unet2d_params()
    return peer


def make(names, dtype):
    """The models called `names`, with the same weights."""
    torch.manual_seed(0)
    ours = make_ours(HALF_WIDTH, MotionConfig(use_mid_block=True, norm_scope="clip"))
    models = {"ours": ours, "diffusers": make_peer(ours) if "diffusers" in names else None}
    return {name: models[name].to(DEVICE, dtype) for name in names}


def clip_of(dtype, frames, size):
    g = torch.Generator().manual_seed(1)
    sample, text = torch.randn(1, 4, frames, size, size, generator=g), torch.randn(1, 77, 768, generator=g)
    return sample.to(DEVICE, dtype), torch.tensor([500], device=DEVICE), text.to(DEVICE, dtype)


def predict(model, sample, timestep, text):
    if isinstance(model, MotionUNet):
        return model(sample, timestep, Conditioning(text))
    return model(sample, timestep, text.repeat_interleave(sample.shape[2], dim=0)).sample  # as its pipeline does


def task(name, model, clip):
    """A function that does one forward pass or one training step, on another clip if it is given one."""
    if name == "forward":
        return torch.no_grad()(lambda clip=clip: predict(model, *clip))
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, fused=True)

    def step(clip=clip):
        F.mse_loss(predict(model, *clip).float(), clip[0].float()).backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(run):
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def check_equal(models, clip):
    ours, peer = (task("forward", models[name], clip)().float() for name in MODELS)
    difference = (ours - peer).abs().max() / peer.abs().max()
    print(f"largest difference of their outputs: {difference:.1e} of the largest output")
    assert difference < (1e-5 if clip[0].dtype == torch.float32 else 5e-2)


def spread(ratios):
    return f"median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"


def bench_speed(name, models, clip, what):
    runs = {model: task(name, models[model], clip) for model in MODELS}
    for run in runs.values():  # warms up
        run()
    rounds = []
    for _ in range(ROUNDS):
        found = {}
        for model, run in runs.items():
            start = time.process_time()
            found[model] = seconds(run), time.process_time() - start
        rounds.append(found)
    medians = ", ".join(f"{model} {statistics.median(found[model][0] for found in rounds):.2f} s" for model in MODELS)
    wall, cpu = ([found["diffusers"][i] / found["ours"][i] for found in rounds] for i in (0, 1))
    shown = f"diffusers / ours: {spread(wall)}" + (f"; in processor seconds {spread(cpu)}" if DEVICE == "cpu" else "")
    print(f"{name}, {what}: {medians}; {shown}", flush=True)


def forget_peak():
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib():
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    # Not ru_maxrss, which a process takes over from its parent.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def second_run(name, model, clip):
    """Seconds and peak memory of a run that finds the optimizer's state made, by one on a tiny clip."""
    run = task(name, model, clip)
    run(clip_of(clip[0].dtype, *TINY_CLIP))
    forget_peak()
    return seconds(run), peak_gib()


def in_a_process(*arguments):
    return subprocess.check_output([sys.executable, "-m", "tests.benchmarks.bench_step", *arguments], text=True).strip()


def memory_child(model, name, dtype, frames, size):
    dtype = getattr(torch, dtype)
    _, peak = second_run(name, make([model], dtype)[model], clip_of(dtype, int(frames), int(size)))
    print(f"{peak:.2f} GiB")


def full_size_child(checkpointing):
    torch.manual_seed(0)
    unet = make_ours(FULL_WIDTH, MotionConfig()).to(DEVICE)
    unet.activation_checkpointing = checkpointing
    taken, peak = second_run("step", unet, clip_of(torch.float32, *CLIP))
    print(f"{taken:.0f} s, peak {peak:.1f} GiB")


def part_of(path, module):
    if "motion_modules" in path and isinstance(module, Attention):  # diffusers' temporal attention
        return "motion attention"
    return next((part for part, kinds in PARTS.items() if isinstance(module, kinds)), None)


def mark_parts(model):
    """Make the profiler see which part each operation belongs to."""
    for path, module in model.named_modules():
        if part := part_of(path, module):
            open_ranges = []
            module.register_forward_pre_hook(
                lambda *_, part=part, ranges=open_ranges: ranges.append(record_function(part).__enter__()) or None
            )
            module.register_forward_hook(lambda *_, ranges=open_ranges: ranges.pop().__exit__(None, None, None))


def part_of_event(event, forward_parts):
    names = []
    while event is not None:
        names.append(event.name)
        if event.name == "aten::clone" or event.name == "aten::contiguous":
            return "layout copies"
        if event.name in PARTS:
            return event.name
        if event.name.startswith("Optimizer.step"):
            return "optimizer"
        if "_Geglu" in event.name:
            return "feed-forward"
        if event.name.startswith("autograd::engine::evaluate_function"):
            return forward_parts.get(event.sequence_nr, "rest")
        event = event.cpu_parent
    return "rest"


def kernel_of(event):
    return next((kind for kind, names in KERNELS.items() if event.name.startswith(names)), "everything else")


def profile_of_a_step(model, clip):
    """Seconds of a training step by part, the backward pass counted to the part it comes from; and by kernel."""
    mark_parts(model)
    run = task("step", model, clip)
    with profile() as profiler:
        run()
    found, kernels, forward_parts = Counter(), Counter(), {}
    for event in profiler.events():
        part = part_of_event(event, forward_parts)
        if event.sequence_nr >= 0 and event.name.startswith("aten::") and part in PARTS:
            forward_parts.setdefault(event.sequence_nr, part)
        taken = (event.self_device_time_total if DEVICE == "cuda" else event.self_cpu_time_total) / 1e6
        found[part] += taken
        kernels[kernel_of(event)] += taken
    return found, kernels


def print_seconds(title, found):
    print(f"{title:<24}" + "".join(f"{name:>12}" for name in MODELS))
    for row in sorted(found["ours"] | found["diffusers"], key=lambda row: -found["ours"][row]):
        print(f"{row:<24}" + "".join(f"{found[name][row]:>10.2f} s" for name in MODELS))


def peak_gflops(dtype, size=2048):
    """What a large matrix product reaches on this machine."""
    a, b = torch.randn(2, size, size, device=DEVICE, dtype=dtype)
    return 2e-9 * size**3 / min(seconds(lambda: a @ b) for _ in range(10))


def bench_profile(models, clip):
    profiles = {name: profile_of_a_step(models[name], clip) for name in MODELS}
    print_seconds("part of a training step", {name: parts for name, (parts, _) in profiles.items()})
    print_seconds("kernel", {name: kernels for name, (_, kernels) in profiles.items()})
    with FlopCounterMode(display=False) as counter:
        task("step", models["ours"], clip)()
    gflop, peak = counter.get_total_flops() / 1e9, peak_gflops(clip[0].dtype)
    print(f"its products and convolutions, {gflop:.0f} GFLOP: at least {gflop / peak:.1f} s at {peak:.0f} GFLOP/s")
    ours, peer = (sum(profiles[name][1].values()) for name in MODELS)
    bound = peer / (ours - profiles["ours"][1]["everything else"])
    print(f"in this profile diffusers / ours is {peer / ours:.2f}, and would be {bound:.2f} were everything else free")


def bench(dtype):
    emulated = DEVICE == "cpu" and dtype == "bfloat16" and not processor.multiplies_bfloat16()
    frames, size = SMALL_CLIP if emulated else CLIP
    what = f"{dtype}, {frames} x {size} x {size}, {DEVICE}"
    for name in TASKS:
        peaks = {model: in_a_process("--child", model, name, dtype, str(frames), str(size)) for model in MODELS}
        print(f"{name}, {what}: peak " + ", ".join(f"{model} {peak}" for model, peak in peaks.items()), flush=True)
    models, clip = make(MODELS, getattr(torch, dtype)), clip_of(getattr(torch, dtype), frames, size)
    check_equal(models, clip)
    for name in TASKS:
        bench_speed(name, models, clip, what)
    if not emulated:
        bench_profile(models, clip)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full-size", nargs="*", choices=CHECKPOINTING)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        full_size_child(*arguments.child) if len(arguments.child) == 1 else memory_child(*arguments.child)
    elif arguments.full_size is not None:
        for checkpointing in arguments.full_size or CHECKPOINTING:
            print(f"full size, activation checkpointing {checkpointing}: {in_a_process('--child', checkpointing)}")
    else:
        for dtype in ("float32", "bfloat16"):
            bench(dtype)


if __name__ == "__main__":
    main()
