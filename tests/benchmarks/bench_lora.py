"""Loading a LoRA into a resident Stable Diffusion 1.5 UNet: batched products against one weight after another.

    python -m tests.benchmarks.bench_lora [cuda]

Both ways are taken in turn in every round; the ratio of a round is their quotient. Full-size shapes, random weights:
192 linear layers of the UNet's transformer blocks, rank 32, float16 on a GPU and float32 on a CPU.
"""

import statistics
import sys
import time

import torch

from animatediff.weights.layouts.architectures import meta_modules
from animatediff.weights.lora.deltas import LoraDelta
from animatediff.weights.resident import ResidentWeights, ScaledLora

ROUNDS = 7
RANK = 32


def make(device):
    """The UNet's transformer weights as a module of their own, and a LoRA for all of them."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    shapes = {
        name.replace(".", "_"): tuple(tensor.shape)
        for name, tensor in meta_modules("sd1")["unet"].state_dict().items()
        if ".transformer_blocks." in name and name.endswith(".weight") and tensor.ndim == 2
    }
    module = torch.nn.Module()
    for name, shape in shapes.items():
        module.register_parameter(name, torch.nn.Parameter(torch.randn(shape, device=device).to(dtype) / 32))
    changes = {
        ("unet", name): LoraDelta(torch.randn(out, RANK) / 32, torch.randn(RANK, into) / 32, 1.0)
        for name, (out, into) in shapes.items()
    }
    return module.requires_grad_(False), changes


@torch.no_grad()
def one_by_one(resident, changes):
    for target, change in changes.items():
        weight = resident._resident_tensor(target)
        product = change.up.to(weight.device).float() @ change.down.to(weight.device).float()
        resident._replace(target, weight.float() + change.scale * product, "the LoRA")


@torch.no_grad()
def batched(resident, changes):
    resident._add_loras({target: [(change, ScaledLora("the LoRA"))] for target, change in changes.items()}, {})


def seconds(function, resident, changes, device):
    resident.restore()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function(resident, changes)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    module, changes = make(device)
    resident = ResidentWeights({"unet": module})
    for function in (one_by_one, batched):  # keeps the pristine copies, warms up
        function(resident, changes)
    ratios, times = [], {one_by_one: [], batched: []}
    for _ in range(ROUNDS):
        for function, found in times.items():
            found.append(seconds(function, resident, changes, device))
        ratios.append(times[one_by_one][-1] / times[batched][-1])
    for function, found in times.items():
        print(f"{function.__name__}: {statistics.median(found) * 1000:.0f} ms ({len(changes)} weights, {device})")
    print(f"one by one / batched: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
