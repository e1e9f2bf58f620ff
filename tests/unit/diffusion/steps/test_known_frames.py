"""Frames that are given stay what they are, and the others see them at every step."""

from dataclasses import replace

import pytest
import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.passes.free_init import FreeInit
from animatediff.diffusion.passes.repeated_sampling import sample_with_free_init
from animatediff.diffusion.passes.start import Start
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.models.control.sparse_control import sparse_condition

FRAMES, NUM_FRAMES = (0, -1), 6
PICTURES, NOISE, START = (
    torch.randn(2, 4, frames, 4, 4, generator=torch.Generator().manual_seed(seed))
    for seed, frames in ((0, 2), (1, NUM_FRAMES), (2, NUM_FRAMES))
)
TOLD = Conditioning(
    torch.ones(2, 5, 8),
    negative=Conditioning(torch.zeros(2, 5, 8)),
    known=sparse_condition(PICTURES, FRAMES, NUM_FRAMES),
)


class Unet:
    """A stand-in whose prediction for a frame depends on all frames; it remembers what it is given."""

    def __init__(self):
        self.inputs, self.told = [], []

    def __call__(self, latents, timestep, conditioning):
        self.inputs.append(latents)
        self.told.append(conditioning)
        return torch.tanh(latents) * 0.1 + latents.mean(dim=2, keepdim=True) * conditioning.text.mean()


def run(unet, *, sampler="ddim", conditioning=TOLD, **settings):
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0} | settings
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    return sample(unet, SAMPLERS[sampler](NoiseSchedule()), conditioning, NOISE, generators=generators, **settings)


def given(clips):
    return clips[:, :, list(FRAMES)]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"context": Context(length=4, overlap=2)}, {"loop": True}, {"start": Start(START, 0.5)}, {"max_batch": 1}],
    ids=["plain", "windows", "loop", "start", "one by one"],
)
def test_given_frames_come_out_as_they_are_and_lead_the_others(sampler, settings):
    found, without = (
        run(Unet(), sampler=sampler, conditioning=told, **settings) for told in (TOLD, replace(TOLD, known=None))
    )
    assert torch.equal(given(found), PICTURES)
    assert not torch.isclose(found[:, :, 1:-1], without[:, :, 1:-1]).any(dim=1).all()


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_at_each_step_they_are_as_noisy_as_the_others(steps):
    unet, scheduler = Unet(), SAMPLERS["ddim"](NoiseSchedule()).begin(steps)
    run(unet, num_inference_steps=steps)
    for seen, timestep in zip(unet.inputs, scheduler.timesteps, strict=True):
        share = compute_alphas_cumprod(NoiseSchedule())[int(timestep)]
        expected = share.sqrt() * PICTURES + (1 - share).sqrt() * given(NOISE)
        torch.testing.assert_close(given(seen), torch.cat([expected] * 2), atol=1e-5, rtol=1e-5)  # both branches


@pytest.mark.parametrize("sampler", ["euler", "euler_a"])
def test_schedulers_of_sigmas_have_their_own_measure_of_noise(sampler):
    unet, scheduler = Unet(), SAMPLERS[sampler](NoiseSchedule()).begin(4)
    run(unet, sampler=sampler)
    for seen, sigma in zip(unet.inputs, scheduler.sigmas, strict=False):
        expected = (PICTURES + sigma * given(NOISE)) / (sigma**2 + 1).sqrt()
        torch.testing.assert_close(given(seen), torch.cat([expected] * 2), atol=1e-5, rtol=1e-5)


def test_the_unet_is_told_of_none_so_that_both_branches_share_a_call():
    unet = Unet()
    run(unet)
    assert all(len(told) == 4 and told.known is None for told in unet.told)


def test_a_strength_of_0_keeps_them_too():
    found = run(Unet(), start=Start(START, 0.0))
    assert torch.equal(given(found), PICTURES)
    assert torch.equal(found[:, :, 1:-1], START[:, :, 1:-1])


def test_a_clip_that_is_sampled_several_times_keeps_them():
    found = sample_with_free_init(
        FreeInit(iterations=2),
        lambda noise, steps: sample(
            Unet(), SAMPLERS["ddim"](NoiseSchedule()), TOLD, noise, num_inference_steps=steps, guidance_scale=5.0
        ),
        lambda: NOISE,
        num_inference_steps=4,
        alphas_cumprod=compute_alphas_cumprod(NoiseSchedule()),
    )
    assert torch.equal(given(found), PICTURES)


def test_a_clip_in_half_precision_keeps_them_in_full():
    told = TOLD.map(lambda tensor: tensor.half())
    found = run(Unet(), conditioning=replace(told, known=TOLD.known))
    assert torch.equal(given(found), PICTURES)
