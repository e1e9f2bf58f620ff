"""The denoising loop, against the same steps written out."""

import pytest
import torch

from animatediff.diffusion.sampling import sample
from animatediff.diffusion.schedule import NoiseSchedule, ddim_scheduler

NOISE = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
TEXT = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
NEGATIVE = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))


class Unet:
    """A stand-in whose prediction depends on all it is given; it remembers the batch sizes."""

    def __init__(self):
        self.batches = []

    def __call__(self, latents, timestep, text):
        self.batches.append(len(latents))
        return torch.tanh(latents) * text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1) + timestep / 1000


def run(unet, *, guidance_scale, steps=4, negative=NEGATIVE):
    scheduler = ddim_scheduler(NoiseSchedule())
    settings = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    return sample(unet, scheduler, TEXT, negative, NOISE, **settings)


def test_batched_guidance_equals_two_separate_calls():
    unet, scheduler, expected = Unet(), ddim_scheduler(NoiseSchedule()), NOISE
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        negative, positive = unet(expected, t, NEGATIVE), unet(expected, t, TEXT)
        expected = scheduler.step(negative + 7.5 * (positive - negative), t, expected, eta=0.0).prev_sample
    torch.testing.assert_close(run(Unet(), guidance_scale=7.5), expected)


def test_one_unet_call_a_step_holds_both_halves():
    unet = Unet()
    run(unet, guidance_scale=7.5)
    assert unet.batches == [4] * 4


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_without_guidance_the_negative_half_is_not_computed(scale):
    unet = Unet()
    result = run(unet, guidance_scale=scale)
    assert unet.batches == [2] * 4
    assert torch.equal(result, run(Unet(), guidance_scale=scale, negative=NEGATIVE + 1))


def test_steps_follow_the_reference():
    scheduler = ddim_scheduler(NoiseSchedule())
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[:2].tolist() == [961, 921]
    assert scheduler.timesteps[-1] == 1
    # The signal's variance that is left: 0.0015 with linear betas, 0.0047 with scaled_linear ones.
    assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0.0015, abs=1e-4)


def test_latents_stay_float32_when_the_unet_runs_in_half_precision():
    seen = []

    def unet(latents, timestep, text):
        seen.append(latents.dtype)
        return latents * 0.1

    result = sample(
        unet,
        ddim_scheduler(NoiseSchedule()),
        TEXT.bfloat16(),
        NEGATIVE.bfloat16(),
        NOISE,
        num_inference_steps=2,
        guidance_scale=2,
    )
    assert set(seen) == {torch.bfloat16}
    assert result.dtype == torch.float32
