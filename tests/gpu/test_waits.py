"""A GPU is given its work ahead of time: nothing in the loops waits for it, as `set_sync_debug_mode` would tell.

The same is tested without a GPU by `tests/unit/test_fake_cuda.py`.
"""

from contextlib import contextmanager

import pytest
import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample


@contextmanager
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if not sampler.adds_noise])
@pytest.mark.parametrize("settings", [{}, {"loop": True}, {"context": Context(length=4, overlap=1)}], ids=str)
def test_a_denoising_loop_waits_for_nothing(gpu, table, name, settings):
    def told():
        return Conditioning(torch.randn(1, 7, 8, device=gpu, dtype=torch.float16))

    entered = []

    def predictor(noisy, timestep, conditioning):
        # What is before the first step may wait; from here on nothing may.
        if not entered:
            torch.cuda.set_sync_debug_mode("error")
        entered.append(timestep.device)
        return noisy * conditioning.text.mean()

    conditioning = Conditioning(told().text, negative=told())
    noise = torch.randn(1, 4, 8, 8, 8, device=gpu)
    settings = {"num_inference_steps": 5, "guidance_scale": 7.5, "guidance_rescale": 0.7} | settings
    with no_waiting():
        torch.cuda.set_sync_debug_mode("default")
        latents = sample(predictor, SAMPLERS[name](NoiseSchedule()), conditioning, noise, **settings)
    assert set(entered) == {gpu}
    assert latents.isfinite().all()
    table.note(f"waits of a denoising loop: {name} {settings.get('context') or ''}", 0, bound=0)
