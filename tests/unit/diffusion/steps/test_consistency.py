"""A teacher's levels are those that samplers go through, its steps are theirs, and what is known is not guessed."""

import pytest
import torch
from diffusers import LCMScheduler

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.schedule import compute_alphas_cumprod, velocity
from animatediff.diffusion.steps.consistency import Levels, clean_and_noise, ddim_step, lcm_guess

SCHEDULES = [
    NoiseSchedule(),
    NoiseSchedule(prediction_type="v_prediction", beta_schedule="scaled_linear", zero_terminal_snr=True),
]
ALPHAS = compute_alphas_cumprod(SCHEDULES[0])


@pytest.mark.parametrize("number", [1, 4, 6, 8, 36, 61])
def test_levels_are_the_trailing_timesteps(number):
    levels = Levels(ALPHAS, number).timesteps(torch.arange(1, number + 1))
    assert levels.flip(0).tolist() == SAMPLERS["euler"](SCHEDULES[0], "trailing").begin(number).timesteps.tolist()


def test_a_few_steps_go_through_levels_of_many():
    for few, many in ((6, 36), (6, 48), (8, 48)):
        coarse, fine = (Levels(ALPHAS, n).timesteps(torch.arange(1, n + 1)).tolist() for n in (few, many))
        assert fine[many // few - 1 :: many // few] == coarse


def test_every_timestep_has_a_level_of_as_many_as_any_other():
    found = Levels(ALPHAS, 50).of_timesteps(torch.arange(1000))
    assert found.bincount().tolist() == [0, *[20] * 50]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["epsilon", "v, zero terminal SNR"])
def test_going_down_the_levels_is_ddim(schedule):
    """And what was predicted is taken apart into the clean latents and the noise that it is made of."""
    levels, x = Levels(compute_alphas_cumprod(schedule), 40), torch.randn(2, 3, 2, 4, 4)
    scheduler = SAMPLERS["ddim"](schedule, "trailing").begin(40)
    predictions = torch.randn(40, *x.shape)
    ours = theirs = x
    for level, timestep, prediction in zip(range(40, 0, -1), scheduler.timesteps, predictions, strict=True):
        at, below = torch.full((2,), level), torch.full((2,), level - 1)
        assert levels.timesteps(at).tolist() == [timestep] * 2
        found = clean_and_noise(ours, prediction, levels.alphas(at), schedule.prediction_type)
        ours = ddim_step(*found, levels.alphas(below))
        theirs = scheduler.step(prediction, timestep, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_velocity_holds_the_latents_and_the_noise():
    clean, noise, timesteps = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0, 500, 999])
    kept = ALPHAS[timesteps]
    noisy = kept.sqrt().reshape(3, 1, 1) * clean + (1 - kept).sqrt().reshape(3, 1, 1) * noise
    found = clean_and_noise(noisy, velocity(clean, noise, timesteps, ALPHAS), kept, "v_prediction")
    torch.testing.assert_close(found, (clean, noise), rtol=0, atol=1e-5)


def test_lcm_guesses_nothing_at_timestep_0_and_else_what_its_sampler_guesses():
    sample, clean = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    assert torch.equal(lcm_guess(sample, clean, torch.zeros(4, dtype=torch.long)), sample)
    scheduler = LCMScheduler()
    for timestep in (1, 19, 999):
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        found = lcm_guess(sample, clean, torch.full((4,), timestep))
        torch.testing.assert_close(found, skip * sample + out * clean)
