"""Training steps at SDXL's own size on a CPU: their seconds, and the memory that they take.

    python -m tests.benchmarks.bench_sdxl_step    # 9.7 GB of memory (counted: 5.1 of the base, 3.8 of the rest), 20 s

The base is random and frozen, in bfloat16; an SDXL-beta motion module is trained in float32 by AdamW, with
`compute.activation_checkpointing: all`. The clip is small, 2 frames of 128 x 64 pixels, so that nearly all of the
memory is weights: what larger clips add is counted by `count_sdxl_memory`. Text embeddings are random: the encoders,
1.6 GB, are no part of it.
"""

import resource
import time

import torch
from diffusers import UNet2DConditionModel

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.training.settings import ObjectiveConfig, OptimConfig, PicturesConfig
from animatediff.training.step.denoising_loss import DenoisingLoss
from animatediff.training.step.draws import RandomSource
from animatediff.training.step.optimizer import make_optimizer, optimizer_step
from animatediff.training.trained_model import ClipModel, place_on_device
from animatediff.weights.layouts.architectures import CONFIGS
from animatediff.weights.motion_schedule import PUBLISHED
from tests.benchmarks.count_sdxl_memory import default_dtype

NUM_STEPS = 2
LATENTS = (1, 4, 2, 16, 8)  # b c f h w


def build() -> ClipModel:
    """Return the model as training has it, made in bfloat16: the whole base in float32 would be 10 GB more."""
    torch.manual_seed(0)
    with default_dtype(torch.bfloat16):
        base = UNet2DConditionModel(**CONFIGS["sdxl"]["unet"])
    unet = MotionUNet(base, MotionConfig.for_version("sdxl"))
    model = ClipModel(unet, unet.motion)
    place_on_device(model, torch.device("cpu"), torch.bfloat16)
    model.checkpoint_activations("all")
    return model.train()


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    model, schedule = build(), PUBLISHED["sdxl"]
    parameters = list(model.trainable.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    optimizer, scaler = make_optimizer(parameters, OptimConfig()), torch.amp.GradScaler("cpu", enabled=False)
    random = RandomSource(0, schedule.num_train_timesteps, 0.1, ObjectiveConfig(), PicturesConfig())
    losses = DenoisingLoss(compute_alphas_cumprod(schedule), schedule.prediction_type, ObjectiveConfig())
    print(f"built: at most {peak_gb():.1f} GB")
    text, pooled = (torch.randn(shape, dtype=torch.bfloat16) for shape in ((1, 77, 2048), (1, 1280)))
    conditioning = Conditioning(text, pooled, torch.tensor([[128, 64, 0, 0, 128, 64]]))
    for step in range(NUM_STEPS):
        began, began_cpu = time.monotonic(), time.process_time()
        loss = losses(model, torch.randn(LATENTS), conditioning, random.draw(LATENTS, step=step, first_index=0))
        loss.sum().backward()
        done = optimizer_step(optimizer, scaler, parameters, max_grad_norm=1.0)
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - began_cpu
        assert done.is_finite
        print(
            f"step {step + 1}: {seconds:.0f} s, {cpu_seconds:.0f} s of processors, at most {peak_gb():.1f} GB, "
            f"loss {loss.item():.3f}, gradient {done.grad_norm.item():.3g}"
        )


if __name__ == "__main__":
    main()
