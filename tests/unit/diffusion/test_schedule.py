import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from animatediff.config import load
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.schedule import add_noise, compute_alphas_cumprod, velocity
from animatediff.errors import UsageError

ZERO_SNR = NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True)
KINDS = st.sampled_from(["linear", "scaled_linear"])


def clips():
    g = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 5, 2, 2, generator=g) for _ in range(2))
    return latents, noise, torch.tensor([0, 500, 999])


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize(
    ("kind", "last"),
    [("linear", 0.012), ("scaled_linear", 0.012), ("scaled_linear", 0.020)],
    ids=["reference", "stable-diffusion-and-sdxl", "sdxl-motion-module"],
)
def test_the_schedule_is_diffusers_own(scheduler, kind, last):
    theirs = scheduler(beta_start=0.00085, beta_end=last, beta_schedule=kind)
    schedule = NoiseSchedule(beta_schedule=kind, beta_end=last)
    torch.testing.assert_close(compute_alphas_cumprod(schedule), theirs.alphas_cumprod, rtol=0, atol=0)
    torch.testing.assert_close(
        SAMPLERS["ddim"](schedule).scheduler.alphas_cumprod, theirs.alphas_cumprod, rtol=0, atol=0
    )


@pytest.mark.parametrize("schedule", [NoiseSchedule(), ZERO_SNR], ids=["defaults", "zero terminal SNR"])
def test_noise_is_added_and_velocity_defined_as_in_diffusers(schedule):
    latents, noise, timesteps = clips()
    theirs = DDPMScheduler.from_config(SAMPLERS["ddim"](schedule).scheduler.config)
    alphas_cumprod = compute_alphas_cumprod(schedule)
    noisy = theirs.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(add_noise(latents, noise, timesteps, alphas_cumprod), noisy)
    wanted = theirs.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(velocity(latents, noise, timesteps, alphas_cumprod), wanted)


def test_noisy_latents_and_velocity_give_back_clip_and_noise():
    latents, noise, timesteps = clips()
    alphas_cumprod = compute_alphas_cumprod(ZERO_SNR)
    noisy, v = (f(latents, noise, timesteps, alphas_cumprod) for f in (add_noise, velocity))
    kept = alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(kept.sqrt() * noisy - (1 - kept).sqrt() * v, latents)
    torch.testing.assert_close((1 - kept).sqrt() * noisy + kept.sqrt() * v, noise)


@given(KINDS, st.floats(1e-4, 1e-3), st.floats(0.005, 0.02), st.integers(100, 1000))
@settings(max_examples=40)
def test_zero_terminal_snr_ends_without_signal_begins_as_before_and_always_falls(kind, first, last, num):
    settings = {"beta_schedule": kind, "beta_start": first, "beta_end": last, "num_train_timesteps": num}
    before = compute_alphas_cumprod(NoiseSchedule(**settings))
    after = compute_alphas_cumprod(NoiseSchedule(**settings, prediction_type="v_prediction", zero_terminal_snr=True))
    assert after[-1] == 0
    assert after[0].item() == pytest.approx(before[0].item(), rel=1e-6)
    assert (after.diff() < 0).all()
    assert (after[1:] < before[1:]).all()


@pytest.mark.parametrize("kind", ["linear", "scaled_linear"])
def test_zero_terminal_snr_is_diffusers_own_up_to_rounding(kind):
    schedule = ZERO_SNR.model_copy(update={"beta_schedule": kind})
    sampler = SAMPLERS["ddim"](schedule).scheduler
    assert sampler.alphas_cumprod[-1] == 0
    torch.testing.assert_close(compute_alphas_cumprod(schedule), sampler.alphas_cumprod, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 100))
@settings(max_examples=30)
def test_with_zero_terminal_snr_sampling_begins_at_the_last_timestep(num_steps):
    sampler = SAMPLERS["ddim"](ZERO_SNR).scheduler
    sampler.set_timesteps(num_steps)
    assert sampler.timesteps[0] == 999


def test_zero_terminal_snr_of_a_noise_predicting_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValidationError, match="zero_terminal_snr needs prediction_type v_prediction"):
        NoiseSchedule(zero_terminal_snr=True)
    path = tmp_path / "schedule.yaml"
    path.write_text("zero_terminal_snr: true\n")
    with pytest.raises(UsageError, match="schedule.yaml: zero_terminal_snr needs prediction_type v_pred") as refusal:
        load(NoiseSchedule, str(path))
    assert "\n" not in str(refusal.value)


def test_the_defaults_are_the_references():
    config = SAMPLERS["ddim"](NoiseSchedule()).scheduler.config
    assert (config.num_train_timesteps, config.beta_start, config.beta_end) == (1000, 0.00085, 0.012)
    assert (config.beta_schedule, config.prediction_type) == ("linear", "epsilon")
    assert (config.steps_offset, config.clip_sample, config.set_alpha_to_one) == (1, False, True)
    assert (config.timestep_spacing, config.rescale_betas_zero_snr) == ("leading", False)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValidationError, match="scaled_linear"):
        NoiseSchedule(beta_schedule="cosine")
    with pytest.raises(ValidationError, match="v_prediction"):
        NoiseSchedule(prediction_type="sample")
