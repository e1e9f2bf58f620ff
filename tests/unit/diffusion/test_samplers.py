"""Every sampler, against predictors that know the answer and against diffusers' schedulers used by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.errors import UserError

SPACINGS = (None, "leading", "trailing", "linspace")
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.adds_noise]
V = NoiseSchedule(prediction_type="v_prediction")
ZERO_SNR = NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True)
SCHEDULES = {
    "epsilon": NoiseSchedule(),
    "SDXL": NoiseSchedule(beta_schedule="scaled_linear", beta_end=0.02),
    "v": V,
    "v, zero terminal SNR": ZERO_SNR,
}
TEXT = Conditioning(torch.zeros(1, 1, 1))


def allowed(sampler, schedule, spacing):
    return spacing is None if sampler == "lcm" else spacing != "leading" or not schedule.zero_terminal_snr


COMBINATIONS = [
    pytest.param(sampler, schedule, spacing, id=f"{sampler}-{name}-{spacing}")
    for sampler in SAMPLERS
    for name, schedule in SCHEDULES.items()
    for spacing in SPACINGS
    if allowed(sampler, schedule, spacing)
]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def ideal(schedule, mean, spread):
    """The best predictor of latents that are normal with this mean and standard deviation."""
    alphas_cumprod = compute_alphas_cumprod(schedule).double()
    sigmas = ((1 - alphas_cumprod).clamp(max=1 - 2**-24) / alphas_cumprod.clamp(min=2**-24)).sqrt()

    def predict(latents, timestep, conditioning):
        # Between two timesteps Euler asks for the sigma between theirs.
        low = int(timestep)
        sigma = torch.lerp(sigmas[low], sigmas[min(low + 1, len(sigmas) - 1)], float(timestep) - low)
        kept = 1 / (sigma**2 + 1)
        noisy, noise_variance = latents.double(), 1 - kept
        gain = kept.sqrt() * spread**2 / (kept * spread**2 + noise_variance)
        clean = mean + gain * (noisy - kept.sqrt() * mean)
        noise = (noisy - kept.sqrt() * clean) / noise_variance.sqrt()
        is_noise = schedule.prediction_type == "epsilon"
        return (noise if is_noise else kept.sqrt() * noise - noise_variance.sqrt() * clean).float()

    return predict


def denoise(predict, sampler, schedule, steps, noise, spacing=None, seeds=(0,)):
    text = Conditioning(torch.zeros(len(noise), 1, 1))
    settings = {"num_inference_steps": steps, "guidance_scale": 1, "generators": generators(*seeds)}
    return sample(predict, SAMPLERS[sampler](schedule, spacing), text, noise, **settings)


# 61 of 1000: diffusers' trailing spacing has one timestep too many.
@pytest.mark.parametrize("steps", [1, 4, 61])
@pytest.mark.parametrize(("sampler", "schedule", "spacing"), COMBINATIONS)
def test_a_known_clip_is_reached(sampler, schedule, spacing, steps):
    clip = normal(1, 2, 3, 2, 2, seed=1)
    found = denoise(ideal(schedule, clip, 0.0), sampler, schedule, steps, normal(1, 2, 3, 2, 2), spacing)
    torch.testing.assert_close(found, clip, rtol=0, atol=2e-3)


@pytest.mark.parametrize("schedule", [NoiseSchedule(), ZERO_SNR], ids=["epsilon", "v, zero terminal SNR"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_timesteps_can_be_steps(sampler, schedule):
    most = 100 if sampler == "lcm" else 1000
    clip = normal(1, 1, 2, 2, 2, seed=1)
    found = denoise(ideal(schedule, clip, 0.0), sampler, schedule, most, normal(1, 1, 2, 2, 2))
    torch.testing.assert_close(found, clip, rtol=0, atol=2e-3)
    with pytest.raises(UserError, match=f"has {most} timesteps: num_inference_steps {most + 1} must not be more"):
        denoise(ideal(schedule, clip, 0.0), sampler, schedule, most + 1, normal(1, 1, 2, 2, 2))


@pytest.mark.parametrize(
    ("spacing", "steps"),
    # 334 and 600 do not divide 1000: some steps are longer than others, and leading begins where there is less noise.
    [("leading", 100), *((spacing, steps) for spacing in ("trailing", "linspace") for steps in (100, 334, 600))],
)
@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_a", "dpmpp_2m"])
def test_the_distribution_of_the_data_is_reached(sampler, spacing, steps):
    schedule, noise = NoiseSchedule(), normal(1, 4, 16, 16, 16)
    found = denoise(ideal(schedule, 0.7, 0.5), sampler, schedule, steps, noise, spacing)
    assert found.mean().item() == pytest.approx(0.7, abs=0.03)
    # A little is lost to the steps' length, most with noise at each of them.
    assert found.std().item() == pytest.approx(0.5, abs=0.04)


def test_without_noise_of_their_own_the_samplers_follow_one_path():
    schedule, noise = NoiseSchedule(), normal(1, 1, 4, 8, 8)
    path_end = denoise(ideal(schedule, 0.7, 0.5), "ddim", schedule, 1000, noise)
    for sampler in ("ddim", "euler", "dpmpp_2m"):
        for spacing in ("trailing", "linspace"):
            found = denoise(ideal(schedule, 0.7, 0.5), sampler, schedule, 200, noise, spacing)
            assert (found - path_end).abs().mean() < 0.01, (sampler, spacing)


@pytest.mark.parametrize("num_train_timesteps", [1000, 150, 37])
@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=25)
@given(data=st.data())
def test_timesteps_fall_within_the_schedule(sampler, num_train_timesteps, data):
    schedule = NoiseSchedule(num_train_timesteps=num_train_timesteps)
    spacing = data.draw(st.sampled_from([s for s in SPACINGS if allowed(sampler, schedule, s)]))
    steps = data.draw(st.integers(1, min(num_train_timesteps, 1000) if sampler != "lcm" else 37))
    timesteps = SAMPLERS[sampler](schedule, spacing).begin(steps).timesteps
    assert len(timesteps) == steps
    assert bool((timesteps[1:] < timesteps[:-1]).all())
    assert 0 <= timesteps[-1] <= timesteps[0] < num_train_timesteps
    if spacing in ("trailing", "linspace") or steps == 1:
        assert timesteps[0] == num_train_timesteps - 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_is_diffusers_own(sampler):
    def unet(latents, timestep, conditioning):
        return torch.tanh(latents) + timestep / 1000

    noise = normal(2, 2, 3, 2, 2)
    scheduler = SAMPLERS[sampler](NoiseSchedule()).scheduler
    found = denoise(unet, sampler, NoiseSchedule(), 6, noise, seeds=(3, 4))
    scheduler.set_timesteps(6)
    expected, own = noise * scheduler.init_noise_sigma, generators(3, 4)
    for t in scheduler.timesteps:
        prediction = unet(scheduler.scale_model_input(expected, t), t, None)
        draws = {"generator": own} if sampler in STOCHASTIC else {}
        expected = scheduler.step(prediction, t, expected, **draws).prev_sample
    assert torch.equal(found, expected)


def test_ddim_is_the_references_unless_told_otherwise():
    for schedule in SCHEDULES.values():
        config = SAMPLERS["ddim"](schedule).scheduler.config
        assert (config.steps_offset, config.clip_sample, config.set_alpha_to_one) == (1, False, True)
        assert config.timestep_spacing == ("trailing" if schedule.zero_terminal_snr else "leading")


def test_leading_begins_below_the_last_timestep():
    for steps, first in ((25, 961), (334, 667), (1, 999)):
        assert SAMPLERS["ddim"](NoiseSchedule()).begin(steps).timesteps[0] == first


def test_few_step_modules_begin_at_the_last_timestep():
    lightning = SAMPLERS["euler"](NoiseSchedule(), "trailing").begin(4)
    assert lightning.timesteps.tolist() == [999, 749, 499, 249]
    lcm = SAMPLERS["lcm"](NoiseSchedule()).begin(4)
    assert lcm.timesteps.tolist() == [999, 749, 499, 249]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_scheduler_remembers_nothing_of_the_clip_before(sampler):
    def unet(latents, timestep, conditioning):
        return torch.tanh(latents)

    one, noise = SAMPLERS[sampler](NoiseSchedule()), normal(1, 2, 3, 2, 2)
    before = dict(one.scheduler.config)

    def run(steps):
        settings = {"num_inference_steps": steps, "guidance_scale": 1, "generators": generators(5)}
        return sample(unet, one, TEXT, noise, **settings)

    first = run(5)
    run(1), run(8)
    assert torch.equal(run(5), first)
    assert dict(one.scheduler.config) == before


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_clips_noise_is_its_own(sampler):
    def unet(latents, timestep, conditioning):
        return torch.tanh(latents) * conditioning.text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)

    noise, text = normal(3, 2, 3, 2, 2), normal(3, 1, 1, seed=1)
    told = Conditioning(text, negative=Conditioning(text / 2))
    one = SAMPLERS[sampler](NoiseSchedule())

    def run(*items):
        chosen = list(items)
        settings = {"num_inference_steps": 5, "guidance_scale": 3, "generators": generators(*items)}
        return dict(zip(items, sample(unet, one, told.rows(chosen), noise[chosen], **settings), strict=True))

    together = run(0, 1, 2)
    for other in (run(2, 0), run(1), run(1, 2, 0)):
        for item, latents in other.items():
            assert torch.equal(latents, together[item])


@pytest.mark.parametrize("sampler", STOCHASTIC)
@pytest.mark.parametrize("given", [None, generators(0), generators(0, 1, 2)])
def test_noise_without_a_generator_for_each_clip_is_refused(sampler, given):
    one, noise = SAMPLERS[sampler](NoiseSchedule()), normal(2, 2, 3, 2, 2)
    text = Conditioning(torch.zeros(2, 1, 1))
    with pytest.raises(ValueError, match="a generator a clip: 2"):
        sample(None, one, text, noise, num_inference_steps=4, guidance_scale=1, generators=given)


def test_what_cannot_be_is_refused_with_its_remedy():
    with pytest.raises(UserError, match="zero_terminal_snr .* set trailing, or leave it away"):
        SAMPLERS["euler"](ZERO_SNR, "leading")
    with pytest.raises(UserError, match="lcm has timesteps of its own: leave timestep_spacing away"):
        SAMPLERS["lcm"](NoiseSchedule(), "trailing")
