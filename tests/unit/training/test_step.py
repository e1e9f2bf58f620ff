import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.schedule import NoiseSchedule, add_noise, compute_alphas_cumprod
from animatediff.training.objective import ObjectiveConfig
from animatediff.training.step import Draws, _generator, clip_losses, draw, of_clips, single_frames

SHAPE = (4, 4, 3, 2, 2)
REFERENCE = ObjectiveConfig()
ALL_OPTIONS = ObjectiveConfig(min_snr_gamma=5, noise_offset=0.1, shared_noise=0.5, timestep_power=2, fade_from=500)
SCHEDULES = [
    NoiseSchedule(),
    NoiseSchedule(prediction_type="v_prediction"),
    NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True),
]


def make_draws(shape=SHAPE, *, objective=REFERENCE, first_index=0, step=7, seed=1, caption_dropout=0.5):
    return draw(
        shape,
        objective=objective,
        seed=seed,
        step=step,
        first_index=first_index,
        num_timesteps=1000,
        caption_dropout=caption_dropout,
    )


def losses_of(predict, latents, draws, *, schedule=SCHEDULES[0], objective=REFERENCE, dtype=torch.float32):
    text = Conditioning(torch.zeros(len(latents), 1, 1, dtype=dtype))
    return clip_losses(
        predict, latents, text, draws, compute_alphas_cumprod(schedule), schedule=schedule, objective=objective
    )


def guess(noisy, timesteps, text):
    """A prediction like any other."""
    return torch.tanh(noisy)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from([REFERENCE, ALL_OPTIONS]))
@settings(deadline=None, max_examples=30)
def test_a_clips_draws_and_loss_do_not_depend_on_the_number_of_workers(shares, objective):
    def of_share(first, size):
        draws = make_draws((size, *SHAPE[1:]), first_index=first, objective=objective)
        return draws, losses_of(guess, latents[first : first + size], draws, objective=objective)

    latents = torch.randn(sum(shares), *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    whole, losses = of_share(0, sum(shares))
    parts = [of_share(sum(shares[:i]), size) for i, size in enumerate(shares)]
    assert torch.equal(torch.cat([draws.noise for draws, _ in parts]), whole.noise)
    assert torch.equal(torch.cat([draws.timesteps for draws, _ in parts]), whole.timesteps)
    assert [d for draws, _ in parts for d in draws.dropped] == whole.dropped
    assert [f for draws, _ in parts for f in draws.frames] == whole.frames
    assert torch.equal(torch.cat([part for _, part in parts]), losses)


@pytest.mark.parametrize("objective", [REFERENCE, ALL_OPTIONS], ids=["reference", "all options"])
def test_seed_step_and_clip_each_change_the_draws(objective):
    draws = make_draws((64, 4, 16, 1, 1), objective=objective)
    for other in (make_draws(step=8, objective=objective), make_draws(seed=2, objective=objective)):
        assert not torch.equal(other.noise, make_draws(objective=objective).noise)
        assert not torch.equal(other.timesteps, make_draws(objective=objective).timesteps)
    assert len(draws.noise.flatten(1).unique(dim=0)) == 64
    assert len(draws.timesteps.unique()) > 50


def test_without_options_the_draws_are_those_from_before_there_were_any():
    draws = draw(
        (3, 4, 2, 2, 2), objective=REFERENCE, seed=42, step=1234, first_index=5, num_timesteps=1000, caption_dropout=0.5
    )
    # Noted down then; torch's normal numbers differ in their last bits from one kind of processor to another.
    noise = [1.672597, -0.678245, 0.028299, -1.393272, 0.956278, 0.873304, 0.592435, -1.660919, 0.670767]
    assert draws.timesteps.tolist() == [50, 741, 428]
    assert draws.dropped == [True, True, True]
    assert draws.noise[..., 0, 0].flatten(1)[:, :3].flatten().tolist() == pytest.approx(noise, abs=2e-6)
    # The code of then.
    generators = [_generator(42, 1234, 5 + i) for i in range(3)]
    assert torch.equal(draws.noise, torch.stack([torch.randn(4, 2, 2, 2, generator=g) for g in generators]))
    assert torch.equal(draws.timesteps, torch.cat([torch.randint(1000, (1,), generator=g) for g in generators]))
    assert draws.dropped == [torch.rand(1, generator=g).item() < 0.5 for g in generators]


def test_without_options_the_losses_are_those_from_before_there_were_any():
    draws = make_draws((3, 4, 2, 2, 2), seed=42, step=1234, first_index=5)
    latents = torch.linspace(-1, 1, draws.noise.numel()).reshape(draws.noise.shape)
    losses = losses_of(guess, latents, draws)
    # Noted down then, clip by clip and for the batch.
    assert losses.tolist() == pytest.approx([1.3020282983779907, 0.1568097472190857, 0.22895324230194092], rel=1e-6)
    assert losses.mean().item() == pytest.approx(0.5625971555709839, rel=1e-6)


def test_without_options_each_loss_and_the_gradient_equal_those_of_one_mean_bit_for_bit():
    draws = make_draws((4, 4, 8, 8, 8))
    prediction = torch.randn(draws.noise.shape).requires_grad_()
    losses = losses_of(lambda *_: prediction, torch.zeros(draws.noise.shape), draws)
    for loss, p, noise in zip(losses, prediction, draws.noise, strict=True):
        assert torch.equal(loss, F.mse_loss(p, noise))
    (new,) = torch.autograd.grad(losses.mean(), prediction)
    (old,) = torch.autograd.grad(F.mse_loss(prediction, draws.noise), prediction)
    assert torch.equal(new, old)


def test_options_leave_what_they_do_not_concern():
    plain, draws = make_draws(), make_draws(objective=ObjectiveConfig(timestep_power=3))
    assert torch.equal(draws.noise, plain.noise)
    assert draws.dropped == plain.dropped
    draws = make_draws(objective=ObjectiveConfig(noise_offset=0.1, shared_noise=0.5))
    assert torch.equal(draws.timesteps, plain.timesteps)
    assert draws.dropped == plain.dropped


@pytest.fixture(scope="module")
def many():
    return make_draws((8000, 1, 5, 1, 1), caption_dropout=0.1)


def test_captions_are_dropped_as_often_as_told(many):
    assert binomtest(sum(many.dropped), 8000, 0.1).pvalue > 0.01
    assert not any(make_draws(caption_dropout=0.0).dropped)
    assert all(make_draws(caption_dropout=1.0).dropped)


def test_timesteps_and_frames_are_uniform(many):
    assert chisquare(torch.bincount(many.timesteps // 50, minlength=20)).pvalue > 0.01
    assert chisquare(torch.bincount(torch.tensor(many.frames), minlength=5)).pvalue > 0.01


@pytest.mark.parametrize("power", [0.5, 2.0, 3.5])
def test_biased_timesteps_follow_the_stated_distribution(power):
    draws = make_draws((4000, 1, 1, 1, 1), objective=ObjectiveConfig(timestep_power=power))
    edges = torch.linspace(0, 1, 11, dtype=torch.float64) ** power
    assert chisquare(torch.bincount(draws.timesteps // 100, minlength=10), 4000 * edges.diff()).pvalue > 0.01


def test_the_noise_is_standard_normal_and_independent():
    noise = make_draws((64, 4, 3, 16, 16)).noise
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert torch.corrcoef(noise.movedim(2, 0).flatten(1))[0, 1].item() == pytest.approx(0, abs=0.02)


def test_the_loss_is_each_clips_float32_error_of_the_noise():
    noise, latents = torch.randn(SHAPE), torch.zeros(SHAPE)
    draws = Draws(noise, torch.tensor([999, 500, 3, 3]), [False] * 4, [0] * 4)
    seen = {}

    def predict(noisy, timesteps, text):
        seen.update(noisy=noisy, timesteps=timesteps)
        return noise.bfloat16() + torch.tensor([0, 1, 2, 3], dtype=torch.bfloat16).reshape(4, 1, 1, 1, 1)

    losses = losses_of(predict, latents, draws)
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx([0, 1, 4, 9], abs=0.05)
    assert torch.equal(seen["timesteps"], draws.timesteps)
    kept = compute_alphas_cumprod(NoiseSchedule())[draws.timesteps].reshape(4, 1, 1, 1, 1)
    torch.testing.assert_close(seen["noisy"], (1 - kept).sqrt() * noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_runs_in_the_texts_precision_and_the_error_is_taken_in_float32(dtype):
    seen = []

    def predict(noisy, timesteps, text):
        product = noisy @ torch.eye(2)
        seen.append(product.dtype)
        return product

    losses = losses_of(predict, torch.randn(SHAPE), make_draws(), dtype=dtype)
    assert seen == [dtype]
    assert losses.dtype == torch.float32


@pytest.mark.parametrize("objective", [REFERENCE, ALL_OPTIONS], ids=["reference", "all options"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["epsilon", "v", "v, zero terminal SNR"])
def test_a_perfect_predictor_has_no_loss_and_a_guess_has_one(schedule, objective):
    alphas_cumprod, latents = (
        compute_alphas_cumprod(schedule),
        torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)),
    )
    timesteps = torch.tensor([999, 998, 500, 10])
    draws = make_draws(objective=objective)
    draws = Draws(draws.noise, timesteps, draws.dropped, draws.frames)

    def predict(noisy, timesteps, text):
        kept = alphas_cumprod[timesteps].reshape(4, 1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * latents) / (1 - kept).sqrt()
        return noise if schedule.prediction_type == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latents

    assert losses_of(predict, latents, draws, schedule=schedule, objective=objective).max() < 1e-9
    off_by_one = losses_of(lambda *a: predict(*a) + 1, latents, draws, schedule=schedule, objective=objective)
    snr = alphas_cumprod[timesteps] / (1 - alphas_cumprod[timesteps])
    weights = snr.clamp(max=5) / (snr if schedule.prediction_type == "epsilon" else snr + 1)
    torch.testing.assert_close(off_by_one, weights if objective.min_snr_gamma else torch.ones(4))


def test_with_a_noise_offset_the_prediction_target_contains_it():
    def of_nothing(objective):
        draws = make_draws((400, 4, 2, 2, 2), objective=objective)
        return losses_of(lambda noisy, *_: torch.zeros_like(noisy), torch.zeros(draws.noise.shape), draws).mean().item()

    assert of_nothing(REFERENCE) == pytest.approx(1, abs=0.05)
    assert of_nothing(ObjectiveConfig(noise_offset=1)) == pytest.approx(2, abs=0.2)


def test_the_draws_of_some_clips_are_theirs_among_the_whole_batchs():
    whole, some = make_draws(), of_clips(make_draws(), torch.tensor([2, 0]))
    assert torch.equal(some.noise, whole.noise[[2, 0]])
    assert torch.equal(some.timesteps, whole.timesteps[[2, 0]])
    assert some.dropped == [whole.dropped[2], whole.dropped[0]]
    assert some.frames == [whole.frames[2], whole.frames[0]]


def test_a_single_frame_is_the_drawn_one_with_its_own_noise():
    latents, draws = torch.randn(SHAPE), make_draws()
    frames, single = single_frames(latents, draws)
    for i, f in enumerate(draws.frames):
        assert torch.equal(frames[i], latents[i, :, f : f + 1])
        assert torch.equal(single.noise[i], draws.noise[i, :, f : f + 1])
    assert torch.equal(single.timesteps, draws.timesteps)
    assert single.dropped == draws.dropped


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_from_a_timestep_on_the_model_sees_less_of_the_clip_and_is_asked_for_it_all_the_same(schedule):
    """Of the clean clip it is asked for: who knows it has no loss, whatever the model predicts."""
    objective, alphas_cumprod, seen = ObjectiveConfig(fade_from=800), compute_alphas_cumprod(schedule), []
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    drawn = make_draws()
    draws = Draws(drawn.noise, torch.tensor([0, 800, 900, 999]), drawn.dropped, drawn.frames)

    def knows_the_clip(noisy, timesteps, _):
        seen.append(noisy)
        kept = alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * latents) / (1 - kept).sqrt()
        return noise if schedule.prediction_type == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latents

    assert losses_of(knows_the_clip, latents, draws, schedule=schedule, objective=objective).max() < 1e-8
    as_ever = add_noise(latents, draws.noise, draws.timesteps, alphas_cumprod)
    assert torch.equal(seen[0][0], as_ever[0])
    torch.testing.assert_close(seen[0][1], as_ever[1])
    for i, share in ((2, 0.5), (3, 0.005)):
        shown = share * alphas_cumprod[draws.timesteps[i]].sqrt()
        expected = shown * latents[i] + (1 - shown**2).sqrt() * draws.noise[i]
        torch.testing.assert_close(seen[0][i], expected)
