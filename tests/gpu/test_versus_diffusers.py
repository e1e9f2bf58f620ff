"""A forward pass and a training step beside diffusers' UNetMotionModel, with the same weights: ratios, reported.

`tests/benchmarks/bench_step` has the models and the steps, and says what they are. Both run in turn in every round.
"""

import pytest
import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from tests.benchmarks.bench_step import MODELS, make_ours, make_peer, seconds, task
from tests.gpu.test_precision import bound_of, distance

VARIANTS = ("eager", "channels-last", "compiled")


@pytest.fixture(scope="module")
def dtype(device):
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@pytest.fixture(scope="module")
def models(size, device, dtype):
    torch.manual_seed(0)
    with torch.device(device):
        ours = make_ours(size.widths, MotionConfig(use_mid_block=True, norm_scope="clip"))
    found = {"ours": ours, "diffusers": make_peer(ours)}
    return {name: found[name].to(device, dtype) for name in MODELS}


def clip_of(size, side, device, dtype):
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, 4, size.num_frames, side, side, generator=generator)
    text = torch.randn(1, 77, 768, generator=generator)
    return sample.to(device, dtype), torch.tensor([500], device=device), text.to(device, dtype)


def variant_of(model, variant):
    model.to(memory_format=torch.channels_last if variant == "channels-last" else torch.contiguous_format)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["forward", "step"])
def test_ratio(models, size, device, dtype, table, variant, kind):
    if variant == "channels-last" and (device.type, kind) == ("cpu", "step"):
        pytest.skip(
            "PyTorch 2.13 crashes: its backward pass on a CPU with channels-last weights, of diffusers' model too"
        )
    if variant == "compiled" and (device.type == "cpu" or kind == "step"):
        pytest.skip("compiling takes minutes: on a GPU, and the forward pass, alone")
    # 512 pixels a side are rendered; 256 are trained on, as the reference does.
    side = size.pixels // 8 if kind == "forward" else size.pixels // 16
    clip = clip_of(size, side, device, dtype)
    runs = {which: task(kind, variant_of(model, variant), clip) for which, model in models.items()}
    if variant == "compiled":
        runs = {which: compiled(model, clip) for which, model in models.items()}
    elif kind == "forward":
        ours, peer = (runs[which]() for which in MODELS)
        bound = bound_of(dtype) if dtype != torch.float32 else 1e-5
        table.check(f"output beside diffusers', {variant}, relative", distance(ours, peer), dtype=dtype, bound=bound)
    for _ in range(2):
        for run in runs.values():  # warms up
            run()
    rounds = [{which: seconds(run) for which, run in runs.items()} for _ in range(10 if size.is_full else 3)]
    what = f"{kind}, {variant}, {size.num_frames} x {8 * side} x {8 * side}"
    for which in MODELS:
        table.spread(f"{what}: {which}", [found[which] * 1000 for found in rounds], dtype=dtype, unit=" ms")
    ratios = [found["diffusers"] / found["ours"] for found in rounds]
    table.spread(f"{what}: diffusers / ours", ratios, dtype=dtype)


def compiled(model, clip):
    """A forward pass of a compiled model, which `predict` would not know by its class."""
    sample, timestep, text = clip
    run, told = torch.compile(model), Conditioning(text)
    if isinstance(model, MotionUNet):
        return torch.no_grad()(lambda: run(sample, timestep, told))
    repeated = text.repeat_interleave(sample.shape[2], dim=0)
    return torch.no_grad()(lambda: run(sample, timestep, repeated).sample)
