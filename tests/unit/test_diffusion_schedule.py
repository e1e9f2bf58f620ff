import pytest
import torch
from pydantic import ValidationError

from animatediff.diffusion.schedule import NoiseSchedule, add_noise, alphas_cumprod, ddim_scheduler


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_the_schedule_is_diffusers_own(kind):
    schedule = NoiseSchedule(beta_schedule=kind)
    torch.testing.assert_close(alphas_cumprod(schedule), ddim_scheduler(schedule).alphas_cumprod, rtol=0, atol=0)


def test_noise_is_added_as_diffusers_adds_it():
    schedule = NoiseSchedule()
    g = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 5, 2, 2, generator=g) for _ in range(2))
    timesteps = torch.tensor([0, 500, 999])
    expected = ddim_scheduler(schedule).add_noise(latents, noise, timesteps)
    torch.testing.assert_close(add_noise(latents, noise, timesteps, alphas_cumprod(schedule)), expected)


def test_the_defaults_are_the_references():
    config = ddim_scheduler(NoiseSchedule()).config
    assert (config.num_train_timesteps, config.beta_start, config.beta_end) == (1000, 0.00085, 0.012)
    assert (config.beta_schedule, config.prediction_type) == ("linear", "epsilon")
    assert (config.steps_offset, config.clip_sample, config.set_alpha_to_one) == (1, False, True)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValidationError, match="scaled_linear"):
        NoiseSchedule(beta_schedule="cosine")
