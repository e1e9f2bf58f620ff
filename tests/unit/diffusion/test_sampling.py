"""The denoising loop, against the same steps written out."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import classifier_free_guidance, sample
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval

DDIM = SAMPLERS["ddim"](NoiseSchedule())
NOISE = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
TEXT = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
NEGATIVE = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))
SPREADS = torch.tensor([0.5, 2.0]).reshape(2, 1, 1, 1, 1)
POSITIVE = SPREADS * torch.randn(NOISE.shape, generator=torch.Generator().manual_seed(4))


def told(text, negative):
    return Conditioning(text, negative=Conditioning(negative))


class Unet:
    """A stand-in whose prediction depends on all it is given; it remembers the batch sizes."""

    def __init__(self):
        self.batches = []

    def __call__(self, latents, timestep, conditioning):
        self.batches.append(len(latents))
        return torch.tanh(latents) * conditioning.text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1) + timestep / 1000


def run(unet, *, steps=4, negative=NEGATIVE, **settings):
    settings = {"num_inference_steps": steps} | settings
    return sample(unet, DDIM, told(TEXT, negative), NOISE, **settings)


def test_batched_guidance_equals_two_separate_calls():
    unet, scheduler, expected = Unet(), DDIM.scheduler, NOISE
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps:
        negative, positive = unet(expected, t, Conditioning(NEGATIVE)), unet(expected, t, Conditioning(TEXT))
        expected = scheduler.step(negative + 7.5 * (positive - negative), t, expected, eta=0.0).prev_sample
    torch.testing.assert_close(run(Unet(), guidance_scale=7.5), expected)


def test_one_unet_call_a_step_holds_both_halves():
    unet = Unet()
    run(unet, guidance_scale=7.5)
    assert unet.batches == [4] * 4


def test_guidance_of_some_steps_alone():
    unet, scheduler, expected = Unet(), DDIM.scheduler, NOISE
    scheduler.set_timesteps(4)
    for step, t in enumerate(scheduler.timesteps):
        positive = unet(expected, t, Conditioning(TEXT))
        if step in (1, 2):
            negative = unet(expected, t, Conditioning(NEGATIVE))
            positive = negative + 7.5 * (positive - negative)
        expected = scheduler.step(positive, t, expected, eta=0.0).prev_sample
    unet = Unet()
    found = run(unet, guidance_scale=7.5, guidance_interval=GuidanceInterval(start=0.25, end=0.75))
    torch.testing.assert_close(found, expected)
    assert unet.batches == [2, 4, 4, 2]


def test_the_difference_of_an_earlier_step_is_taken_again():
    unet, scheduler, expected, difference = Unet(), DDIM.scheduler, NOISE, None
    scheduler.set_timesteps(4)
    for step, t in enumerate(scheduler.timesteps):
        positive = unet(expected, t, Conditioning(TEXT))
        if step in (0, 3):
            difference = positive - unet(expected, t, Conditioning(NEGATIVE))
        expected = scheduler.step(positive + 6.5 * difference, t, expected, eta=0.0).prev_sample
    unet = Unet()
    torch.testing.assert_close(run(unet, guidance_scale=7.5, guidance_every=3), expected)
    assert unet.batches == [4, 2, 2, 4]


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_without_guidance_the_negative_half_is_not_computed(scale):
    unet = Unet()
    result = run(unet, guidance_scale=scale)
    assert unet.batches == [2] * 4
    assert torch.equal(result, run(Unet(), guidance_scale=scale, negative=NEGATIVE + 1))


def test_without_rescaling_guidance_keeps_its_bits():
    assert torch.equal(classifier_free_guidance(NOISE, POSITIVE, 7.5), NOISE + 7.5 * (POSITIVE - NOISE))
    assert torch.equal(run(Unet(), guidance_scale=7.5, guidance_rescale=0.0), run(Unet(), guidance_scale=7.5))


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_rescaled_guidance_is_diffusers_own_and_each_clips_by_itself(share):
    guided = classifier_free_guidance(NOISE, POSITIVE, 7.5)
    found = classifier_free_guidance(NOISE, POSITIVE, 7.5, share)
    torch.testing.assert_close(found, rescale_noise_cfg(guided, POSITIVE, share))
    for i in range(2):
        torch.testing.assert_close(found[[i]], classifier_free_guidance(NOISE[[i]], POSITIVE[[i]], 7.5, share))
    spread = found.std(dim=(1, 2, 3, 4))
    wanted, before = POSITIVE.std(dim=(1, 2, 3, 4)), guided.std(dim=(1, 2, 3, 4))
    torch.testing.assert_close(spread, share * wanted + (1 - share) * before)
    assert not torch.equal(run(Unet(), guidance_scale=7.5, guidance_rescale=share), run(Unet(), guidance_scale=7.5))


def test_steps_follow_the_reference():
    scheduler = DDIM.scheduler
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[:2].tolist() == [961, 921]
    assert scheduler.timesteps[-1] == 1
    # The signal's variance that is left: 0.0015 with linear betas, 0.0047 with scaled_linear ones.
    assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0.0015, abs=1e-4)


def test_latents_stay_float32_when_the_unet_runs_in_half_precision():
    seen = []

    def unet(latents, timestep, conditioning):
        seen.append(latents.dtype)
        return latents * 0.1

    result = sample(
        unet,
        DDIM,
        told(TEXT.bfloat16(), NEGATIVE.bfloat16()),
        NOISE,
        num_inference_steps=2,
        guidance_scale=2,
    )
    assert set(seen) == {torch.bfloat16}
    assert result.dtype == torch.float32


SCHEDULES = {
    "epsilon": NoiseSchedule(),
    "v": NoiseSchedule(prediction_type="v_prediction"),
    "v, zero terminal SNR": NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True),
    "v, zero terminal SNR, SDXL": NoiseSchedule(
        beta_schedule="scaled_linear", prediction_type="v_prediction", zero_terminal_snr=True
    ),
}


CLIP = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(3))


def sample_knowing_the_clip(schedule, steps):
    """The result of a perfect predictor; the timesteps; the noise that the latents held at each."""
    alphas_cumprod, timesteps, noises = compute_alphas_cumprod(schedule), [], []

    def predict(latents, timestep, conditioning):
        kept = alphas_cumprod[int(timestep)]
        noise = (latents - kept.sqrt() * CLIP) / (1 - kept).sqrt()
        timesteps.append(int(timestep))
        noises.append(noise)
        return noise if schedule.prediction_type == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * CLIP

    result = sample(
        predict, SAMPLERS["ddim"](schedule), told(TEXT, NEGATIVE), NOISE, num_inference_steps=steps, guidance_scale=1
    )
    return result, timesteps, noises


# Counts that divide 1000 or not; for 61, diffusers' trailing spacing has one timestep too many.
@pytest.mark.parametrize("steps", [1, 4, 25, 30, 61])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_perfect_predictor_of_a_known_clip_is_led_to_it(schedule, steps):
    result, timesteps, _ = sample_knowing_the_clip(schedule, steps)
    torch.testing.assert_close(result, CLIP, rtol=0, atol=2e-4)
    assert len(timesteps) == steps
    assert (timesteps[0] == 999) == (schedule.zero_terminal_snr or steps == 1)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_on_the_way_there_the_latents_hold_the_clip_and_one_noise(schedule):
    _, _, (first, *rest) = sample_knowing_the_clip(schedule, 4)
    for noise in rest:
        torch.testing.assert_close(noise, first, rtol=0, atol=1e-4)
