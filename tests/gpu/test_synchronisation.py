"""A GPU is given its work ahead of time: nothing in the loops waits for it, as `set_sync_debug_mode` would tell.

The same is tested without a GPU by `tests/unit/test_fake_cuda.py`.
"""

import warnings

import pytest
import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.training.config import TrainingConfig
from animatediff.training.trainer import Trainer
from tests.gpu.dataset import write_dataset


@pytest.fixture
def waits_fail(gpu):
    """Call it, and from there on whatever waits for the GPU raises, until the test ends."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if not sampler.adds_noise])
@pytest.mark.parametrize("settings", [{}, {"loop": True}, {"context": Context(length=4, overlap=1)}], ids=str)
def test_a_denoising_loop_waits_for_nothing(gpu, waits_fail, table, name, settings):
    positive, negative = (Conditioning(torch.randn(1, 7, 8, device=gpu, dtype=torch.float16)) for _ in range(2))
    noise, devices = torch.randn(1, 4, 8, 8, 8, device=gpu), set()

    def predictor(noisy, timestep, conditioning):
        waits_fail()  # what is before the first step may wait
        devices.add(timestep.device)
        return noisy * conditioning.text.mean()

    latents = sample(
        predictor,
        SAMPLERS[name](NoiseSchedule()),
        Conditioning(positive.text, negative=negative),
        noise,
        num_inference_steps=5,
        guidance_scale=7.5,
        guidance_rescale=0.7,
        **settings,
    )
    torch.cuda.set_sync_debug_mode("default")
    assert devices == {gpu}
    assert latents.isfinite().all()
    table.note(f"waits of a denoising loop: {name}, {settings}", 0, bound="none")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_training_step_waits_for_the_step_before_alone(gpu, tiny_base, table, tmp_path, precision):
    train = {"num_steps": 4, "batch_size": 1, "ema_decay": 0.9}
    dataset = write_dataset(tmp_path, num_clips=4, shape=(3, 4, 8, 8))
    config = TrainingConfig(dataset_uri=dataset, base=tiny_base, train=train, compute={"precision": precision})
    trainer, numbers = Trainer(config, device=gpu), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for _ in trainer.steps(0):
            numbers.append(sum("synchroniz" in str(warning.message) for warning in caught))
            caught.clear()
    torch.cuda.set_sync_debug_mode("default")
    table.note("waits of each training step", numbers, dtype=precision, bound="1 from the second on")
    assert max(numbers[1:]) <= 1
