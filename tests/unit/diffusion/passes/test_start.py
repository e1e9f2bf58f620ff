"""Sampling from a clip instead of from noise alone, with every sampler."""

import pytest
import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.passes.start import Start
from animatediff.diffusion.passes.strength import num_kept_steps
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.schedule import compute_alphas_cumprod
from tests.unit.diffusion.test_samplers import COMBINATIONS, STOCHASTIC, generators, ideal, normal

CLIP, NOISE = normal(2, 2, 3, 4, 4, seed=1), normal(2, 2, 3, 4, 4)


def denoise(predict, sampler, schedule, spacing, *, strength, steps=10, clip=CLIP, noise=NOISE, **settings):
    text = Conditioning(torch.zeros(len(noise), 1, 1))
    draws = {"generators": generators(*range(len(noise)))}
    start = None if strength is None else Start(clip, strength)
    common = {"num_inference_steps": steps, "guidance_scale": 1, "start": start}
    return sample(predict, SAMPLERS[sampler](schedule, spacing), text, noise, **common | draws | settings)


class Listening:
    """A predictor that remembers what it is given."""

    def __init__(self, predict):
        self.predict, self.inputs, self.timesteps = predict, [], []

    def __call__(self, latents, timestep, conditioning):
        self.inputs.append(latents)
        self.timesteps.append(float(timestep))
        return self.predict(latents, timestep, conditioning)


@pytest.mark.parametrize(("sampler", "schedule", "spacing"), COMBINATIONS)
def test_a_clip_is_noised_at_the_first_kept_timestep_and_denoised_from_there(sampler, schedule, spacing):
    # One that knows the clip takes the noise out again, whatever of it there is.
    whole = Listening(ideal(schedule, CLIP, 0.0))
    denoise(whole, sampler, schedule, spacing, strength=None)
    for strength, kept in ((0.05, 0), (0.3, 3), (0.57, 5), (0.99, 9), (1.0, 10)):
        listening = Listening(ideal(schedule, CLIP, 0.0))
        found = denoise(listening, sampler, schedule, spacing, strength=strength)
        assert listening.timesteps == whole.timesteps[10 - kept :]
        torch.testing.assert_close(found, CLIP, rtol=0, atol=2e-3)
        if kept:
            alphas_cumprod = compute_alphas_cumprod(schedule).double().clamp(min=2**-24)
            sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
            low = int(listening.timesteps[0])
            high = min(low + 1, 999)
            sigma = torch.lerp(sigmas[low], sigmas[high], listening.timesteps[0] - low)
            expected = (CLIP + sigma * NOISE) / (sigma**2 + 1).sqrt()
            torch.testing.assert_close(listening.inputs[0], expected.float(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_steps_are_diffusers_own(sampler):
    def unet(latents, timestep, conditioning):
        return torch.tanh(latents) + timestep / 1000

    scheduler = SAMPLERS[sampler](NoiseSchedule()).scheduler
    found = denoise(unet, sampler, NoiseSchedule(), None, strength=0.5, steps=8)
    # As its pipelines do from a picture.
    scheduler.set_timesteps(8)
    timesteps, own = scheduler.timesteps[4:], generators(0, 1)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(4)
    expected = scheduler.add_noise(CLIP, NOISE, timesteps[:1].repeat(2))
    for t in timesteps:
        prediction = unet(scheduler.scale_model_input(expected, t), t, None)
        draws = {"generator": own} if sampler in STOCHASTIC else {}
        expected = scheduler.step(prediction, t, expected, **draws).prev_sample
    assert torch.equal(found, expected)


def test_a_strength_of_zero_leaves_the_clip_as_it_is():
    assert torch.equal(denoise(None, "ddim", NoiseSchedule(), None, strength=0.0), CLIP)


def test_the_number_of_steps_is_rounded_down():
    assert [num_kept_steps(25, strength) for strength in (0, 0.03, 0.04, 0.5, 0.8, 1)] == [0, 0, 1, 12, 20, 25]


def test_a_loop_in_one_window_goes_once_around_in_the_steps_that_are_taken():
    """The window begins further on at each step: frames are told by what the text of each is."""
    seen = []

    def predict(latents, timestep, conditioning):
        seen.append(int(conditioning.text[0, 0, 0, 0]))
        return latents

    text = Conditioning(torch.arange(8.0).reshape(1, 8, 1, 1))
    noise = normal(1, 2, 8, 2, 2)
    settings = {"num_inference_steps": 8, "guidance_scale": 1, "loop": True}
    sample(predict, SAMPLERS["ddim"](NoiseSchedule()), text, noise, start=Start(noise, 0.5), **settings)
    assert seen == [0, 2, 4, 6]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_windows_and_neighbours_change_nothing_of_a_clip(sampler):
    def predict(latents, timestep, conditioning):
        return torch.tanh(latents)

    settings = {"strength": 0.6, "steps": 5}
    together = denoise(predict, sampler, NoiseSchedule(), None, **settings)
    windowed = denoise(predict, sampler, NoiseSchedule(), None, context=Context(length=2, overlap=1), **settings)
    torch.testing.assert_close(windowed, together)
    alone = denoise(
        predict, sampler, NoiseSchedule(), None, clip=CLIP[1:], noise=NOISE[1:], generators=generators(1), **settings
    )
    assert torch.equal(alone[0], together[1])
