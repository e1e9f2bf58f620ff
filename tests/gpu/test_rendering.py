"""Rendering where the models are in half precision: seeds, swapped weights, windows, an overflowing VAE, memory."""

import time

import numpy as np
import pytest
import torch

from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from tests.gpu.full_size import write_lora
from tests.gpu.test_precision import distance

BARE = Entry(name="bare", prompts=("x",))
# Two steps of guidance multiply half precision's rounding (see test_precision) by about the guidance scale.
LATENTS_BOUND = 0.05


def item(size, **changes):
    own = {"width": size.pixels, "height": size.pixels, "num_frames": size.num_frames, "num_inference_steps": 2}
    told = {"prompt": "a large red star moving right", "seed": 3, "guidance_scale": 3.0}
    return Item(digest="", entry="", model="", **(own | told | changes))


def write_motion(path, base):
    """Motion modules that fit a base, and move."""
    torch.manual_seed(0)
    unet = load_unet(base)
    motion = MotionModules.for_base(unet, MotionConfig(norm_num_groups=unet.config.norm_num_groups))
    for name, parameter in motion.named_parameters():
        if "proj_out" in name:  # zero at first
            torch.nn.init.normal_(parameter, std=0.02)
    motion_modules.write(str(path), motion)
    return str(path)


@pytest.fixture(scope="module")
def motion(base, tmp_path_factory):
    return write_motion(tmp_path_factory.mktemp("motion") / "motion.safetensors", base)


@pytest.fixture(scope="module")
def animator(base, motion, device):
    return Animator(base, motion, schedule=NoiseSchedule(), device=str(device))


def render(animator, wanted, entry=BARE):
    animator.load(entry)
    (clip,) = animator.render_batch([wanted])
    return clip


def test_models_are_where_they_should_be(animator, device, table):
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    states = [module.state_dict() for module in animator._weights._modules.values()]
    found = {(t.device, t.dtype) for state in states for t in state.values() if t.is_floating_point()}
    table.note("weights of the resident models", ", ".join(sorted({str(place) for place, _ in found})), dtype=dtype)
    assert found == {(device, dtype)}


def test_a_seed_gives_the_same_clip_on_a_cpu(tiny_base, device, table, size, tmp_path):
    wanted = item(size, width=64, height=64, num_frames=4)
    motion = write_motion(tmp_path / "motion.safetensors", tiny_base)
    clips = [
        render(Animator(tiny_base, motion, schedule=NoiseSchedule(), device=str(place)), wanted)
        for place in (device, torch.device("cpu"))
    ]
    bound = LATENTS_BOUND if device.type == "cuda" else 0.0
    what = "latents of one seed beside a CPU's float32, relative"
    table.check(what, distance(*(clip.latents for clip in clips)), dtype=clips[0].latents.dtype, bound=bound)
    assert np.abs(clips[0].frames.astype(int) - clips[1].frames).mean() <= (2 if bound else 0)


def allocated(device):
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def test_after_a_swap_the_base_is_as_it_was_and_nothing_is_left(animator, device, size, table, tmp_path):
    uris = [write_lora(tmp_path / f"{i}.safetensors", animator._unet.base, rank=64, seed=i) for i in range(2)]
    entries = [Entry(name=str(i), prompts=("x",), loras=({"path": uri},)) for i, uri in enumerate(uris)]
    first = render(animator, item(size))
    for entry in (entries[0], BARE):  # what the libraries keep from a first swap on is no weight
        animator.load(entry)
    before, seconds = allocated(device), []
    for entry in (*entries, BARE, *entries):
        start = time.monotonic()
        animator.load(entry)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
    between = render(animator, item(size), entries[1])
    assert (between.frames != first.frames).any()
    again = render(animator, item(size))
    table.spread("swap of a LoRA of rank 64 on all attentions", seconds, unit=" s")
    table.check("bytes left on the device after swaps", allocated(device) - before, bound=0)
    table.check("pixels that differ after A, B, A", int((again.frames != first.frames).sum()), bound=0)
    assert torch.equal(again.latents, first.latents)


def test_windows_together_are_as_windows_one_by_one(animator, size, device, table):
    wanted = item(size, num_frames=3 * size.num_frames // 2, context=Context(length=size.num_frames, overlap=2))
    wanted = wanted.model_copy(update={"width": size.pixels // 2, "height": size.pixels // 2})
    animator.load(BARE)
    together, alone = (animator.render_batch([wanted], max_batch=most)[0] for most in (None, 1))
    bound = LATENTS_BOUND if device.type == "cuda" else 1e-3  # latents are given in float16
    table.check(
        "windows in one batch beside one by one, relative", distance(together.latents, alone.latents), bound=bound
    )


@torch.no_grad()
def test_a_vae_that_overflows_in_half_precision_decodes_in_single(tiny_base, device, table):
    """The numbers between its layers are too large for float16, those that it gives are not."""
    latents, frames = torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(0)), []
    for place in (device, torch.device("cpu")):
        animator = Animator(tiny_base, None, schedule=NoiseSchedule(), device=str(place))
        animator._vae.half().decoder.conv_in.weight.mul_(1e5)
        dtype = animator._unet.base.dtype
        animator._vae.to(dtype)
        if place.type == "cuda":
            assert not animator._vae.decode(latents.to(place).half()).sample.isfinite().all()
        frames.append(animator._codec.decode(latents.to(place)).astype(int))
        assert next(animator._vae.parameters()).dtype == dtype
    worst = int(np.abs(frames[0] - frames[1]).max())
    table.check("VAE that overflows in float16 beside a CPU's float32, levels of 255", worst, bound=1)


@pytest.mark.parametrize("num_frames", [16, 32])
def test_memory_of_a_clip(animator, gpu, size, table, num_frames):
    start = time.monotonic()
    render(animator, item(size, num_frames=num_frames))
    torch.cuda.synchronize()
    seconds = time.monotonic() - start
    peak = torch.cuda.max_memory_allocated(gpu) / 2**30
    what = f"{num_frames} frames of 512 x 512, two steps with guidance"
    table.note(f"{what}: time", f"{seconds:.2f} s", dtype=torch.float16)
    # So that it fits into a common GPU.
    table.check(f"{what}: peak memory, GiB", peak, dtype=torch.float16, bound=24.0)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_precision_by_request_beside_the_devices_own(animator, base, motion, device, size, table, precision):
    asked = Animator(base, motion, schedule=NoiseSchedule(), device=str(device), precision=precision)
    found = {t.dtype for t in asked._unet.state_dict().values() if t.is_floating_point()}
    assert found == {getattr(torch, precision)}
    clips = [render(each, item(size)) for each in (asked, animator)]
    # bfloat16 rounds four times as coarsely as float16, which the bound is for.
    bound = 4 * LATENTS_BOUND if precision == "bfloat16" else LATENTS_BOUND
    what = "latents beside those of the device's own precision, relative"
    table.check(what, distance(*(clip.latents for clip in clips)), dtype=getattr(torch, precision), bound=bound)


def test_a_compiled_unet_renders_the_same_but_for_rounding_and_faster(
    animator, base, motion, gpu, size, table, tmp_path
):
    start = time.monotonic()
    compiled = Animator(base, motion, schedule=NoiseSchedule(), device=str(gpu), compile=True)
    first = render(compiled, item(size))
    table.note("compiled UNet: load, compile and the first clip", f"{time.monotonic() - start:.0f} s")
    uri = write_lora(tmp_path / "lora.safetensors", compiled._unet.base, rank=64, seed=0)
    lora = Entry(name="lora", prompts=("x",), loras=({"path": uri},))
    for entry in (BARE, lora):  # swapped weights are seen by the graphs that were recorded before
        pair = [render(each, item(size), entry).latents for each in (compiled, animator)]
        table.check(f"compiled UNet's latents, {entry.name}, relative", distance(*pair), bound=LATENTS_BOUND)
    again = render(compiled, item(size))
    table.check("compiled: pixels that differ after A, B, A", int((again.frames != first.frames).sum()), bound=0)
    seconds = {}
    for name, each in (("eager", animator), ("compiled", compiled)) * 3:
        seconds.setdefault(name, []).append(render(each, item(size, num_inference_steps=10)).seconds["unet"])
    ratios = [eager / quick for eager, quick in zip(*seconds.values(), strict=True)]
    table.spread("a clip's UNet of 10 steps with guidance: eager / compiled", ratios)
