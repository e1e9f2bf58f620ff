"""The memory of a training step on SDXL's own size, counted on tensors without numbers: no GPU, and a minute of a CPU.

    python -m tests.benchmarks.count_sdxl_memory

Of a clip, in bfloat16 under autocast: what the forward pass keeps for the gradients, for each choice of
`compute.activation_checkpointing`; and the most that one unit of ResNet, attention and motion module keeps while it is
computed again, which comes on top. Memory that is under two names counts once, and weights do not. Then the weights.
"""

from collections.abc import Callable
from contextlib import contextmanager
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from animatediff.diffusion.conditioning import Conditioning
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.weights.layouts.architectures import CONFIGS, meta_modules

CLIPS = ((16, 512), (16, 1024))
CHECKPOINTING = ("none", "motion", "all")


class Kept:
    """Bytes of the distinct tensors that are kept for a backward pass."""

    def __init__(self, weights: set[int]) -> None:
        self._weights, self._storages = weights, {}

    def add(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._storages[storage._cdata] = storage  # held, so that no other gets its number
        return tensor

    @property
    def gigabytes(self) -> float:
        return sum(storage.nbytes() for storage in self._storages.values()) / 1e9

    def hooks(self):
        return torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def count(checkpointing: str, num_frames: int, side: int) -> tuple[float, float]:
    """Return what is kept, and the most of a unit that is computed again, in GB."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        with default_dtype(torch.bfloat16):
            base = UNet2DConditionModel(**CONFIGS["sdxl"]["unet"])
            text, pooled = torch.randn(1, 77, 2048), torch.randn(1, 1280)
        model = MotionUNet(base, MotionConfig.for_version("sdxl"), checkpointing).train()
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        kept, units = Kept(weights), []

        def again(run: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
            inside = Kept(weights)
            with inside.hooks():
                found = run(*inputs)
            units.append(inside.gigabytes)
            for tensor in inputs:
                kept.add(tensor)
            return found

        sample, conditioning = (
            torch.randn(1, 4, num_frames, side // 8, side // 8),
            Conditioning(text, pooled, torch.ones(1, 6)),
        )
        with (
            patch("animatediff.models.motion_unet._again", again),
            kept.hooks(),
            torch.autocast("cpu", torch.bfloat16),
        ):
            model(sample, torch.tensor([500]), conditioning)
        return kept.gigabytes, max(units, default=0.0)


def main() -> None:
    for num_frames, side in CLIPS:
        for checkpointing in CHECKPOINTING:
            kept, unit = count(checkpointing, num_frames, side)
            print(f"{num_frames} x {side} x {side}, {checkpointing}: {kept:.1f} GB kept, {unit:.1f} GB of a unit")
    parts = meta_modules("sdxl")
    numbers = {part: sum(parameter.numel() for parameter in module.parameters()) for part, module in parts.items()}
    for part, number in numbers.items():
        print(f"{part}: {number / 1e6:,.1f} million parameters, {2 * number / 1e9:.2f} GB in half precision")
    with torch.device("meta"):
        motion = MotionUNet(parts["unet"], MotionConfig.for_version("sdxl")).motion
    trained = sum(parameter.numel() for parameter in motion.parameters())
    print(
        f"motion module: {trained / 1e6:,.1f} million, with gradients and AdamW's moments {16 * trained / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    main()
