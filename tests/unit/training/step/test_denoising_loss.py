"""What a training step minimises: each clip's error, whatever is predicted and however clips are weighed."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.schedule import add_noise, compute_alphas_cumprod
from animatediff.training.settings import ObjectiveConfig
from animatediff.training.step.denoising_loss import DenoisingLoss, min_snr_weights, sums_by_timestep_quarter
from animatediff.training.step.draws import Draws
from tests.unit.training.step.test_draws import ALL_OPTIONS, REFERENCE, SHAPE, make_draws

SCHEDULES = [
    NoiseSchedule(),
    NoiseSchedule(prediction_type="v_prediction"),
    NoiseSchedule(prediction_type="v_prediction", zero_terminal_snr=True),
]


def losses_of(predict, latents, draws, *, schedule=SCHEDULES[0], objective=REFERENCE, dtype=torch.float32):
    conditioning = Conditioning(torch.zeros(len(latents), 1, 1, dtype=dtype))
    losses = DenoisingLoss(compute_alphas_cumprod(schedule), schedule.prediction_type, objective)
    return losses(predict, latents, conditioning, draws)


def guess(noisy, timesteps, text):
    """A prediction like any other."""
    return torch.tanh(noisy)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.sampled_from([REFERENCE, ALL_OPTIONS]))
@settings(max_examples=30)
def test_a_clips_draws_and_loss_do_not_depend_on_the_number_of_workers(shares, objective):
    def of_share(first, size):
        draws = make_draws((size, *SHAPE[1:]), first_index=first, objective=objective)
        return draws, losses_of(guess, latents[first : first + size], draws, objective=objective)

    latents = torch.randn(sum(shares), *SHAPE[1:], generator=torch.Generator().manual_seed(0))
    whole, losses = of_share(0, sum(shares))
    parts = [of_share(sum(shares[:i]), size) for i, size in enumerate(shares)]
    assert torch.equal(torch.cat([draws.noise for draws, _ in parts]), whole.noise)
    assert torch.equal(torch.cat([draws.timesteps for draws, _ in parts]), whole.timesteps)
    assert [d for draws, _ in parts for d in draws.captions_dropped] == whole.captions_dropped
    assert [f for draws, _ in parts for f in draws.frame_indices] == whole.frame_indices
    assert torch.equal(torch.cat([part for _, part in parts]), losses)


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


def test_the_loss_is_each_clips_float32_error_of_the_noise():
    noise, latents = torch.randn(SHAPE), torch.zeros(SHAPE)
    draws = Draws(noise, torch.tensor([999, 500, 3, 3]), [False] * 4, [0] * 4, [[0]] * 4, torch.zeros(4))
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
    draws = replace(draws, timesteps=timesteps)

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


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_from_a_timestep_on_the_model_sees_less_of_the_clip_and_is_asked_for_it_all_the_same(schedule):
    """Of the clean clip it is asked for: who knows it has no loss, whatever the model predicts."""
    objective, alphas_cumprod, seen = ObjectiveConfig(fade_from=800), compute_alphas_cumprod(schedule), []
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    draws = replace(make_draws(), timesteps=torch.tensor([0, 800, 900, 999]))

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


@pytest.mark.parametrize(("prediction_type", "added"), [("epsilon", 0), ("v_prediction", 1)])
@given(st.floats(1e-6, 1 - 1e-4), st.floats(0.1, 20))
@settings(max_examples=60)
def test_min_snr_weighs_as_the_closed_form(prediction_type, added, alphas_cumprod, gamma):
    snr = alphas_cumprod / (1 - alphas_cumprod)
    (weight,) = min_snr_weights(torch.tensor([alphas_cumprod], dtype=torch.float64), gamma, prediction_type).tolist()
    assert weight == pytest.approx(min(snr, gamma) / (snr + added), rel=1e-9)
    assert 0 < weight <= 1


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_finite_where_nothing_or_all_of_the_signal_is_left(prediction_type):
    weights = min_snr_weights(torch.tensor([0.0, 1.0]), 5, prediction_type)
    assert weights.tolist() == [1.0 if prediction_type == "epsilon" else 0.0, 0.0]


def test_min_snr_makes_both_predictions_errors_the_same_error_of_the_clean_latents():
    alphas_cumprod = compute_alphas_cumprod(NoiseSchedule())
    # Of noisy latents, an error e of the noise is one of e / sqrt(SNR) of the clean latents, and e / sqrt(SNR + 1) one
    # of the velocity.
    snr = alphas_cumprod / (1 - alphas_cumprod)
    of_noise = min_snr_weights(alphas_cumprod, 5, "epsilon") * snr
    of_velocity = min_snr_weights(alphas_cumprod, 5, "v_prediction") * (snr + 1)
    torch.testing.assert_close(of_noise, of_velocity)
    torch.testing.assert_close(of_noise, snr.clamp(max=5))


def test_quartile_sums_add_up_losses_and_clips_by_quarters_of_the_timesteps():
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], requires_grad=True)
    sums = sums_by_timestep_quarter(losses, torch.tensor([0, 249, 250, 999, 749]), 1000)
    assert sums.tolist() == [[3, 4, 16, 8], [2, 1, 1, 1]]
    assert not sums.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_left_out(bad):
    sums = sums_by_timestep_quarter(torch.tensor([1.0, bad, 3.0]), torch.tensor([0, 999, 998]), 1000)
    assert sums.tolist() == [[1, 0, 0, 3], [1, 0, 0, 1]]


@given(st.data(), st.integers(2, 1500))
@settings(max_examples=50)
def test_quartile_sums_of_parts_add_up_to_those_of_the_whole(data, num_timesteps):
    timesteps = torch.tensor(data.draw(st.lists(st.integers(0, num_timesteps - 1), min_size=1, max_size=9)))
    losses, cut = torch.arange(1.0, len(timesteps) + 1), data.draw(st.integers(0, len(timesteps)))
    whole = sums_by_timestep_quarter(losses, timesteps, num_timesteps)
    parts = [
        sums_by_timestep_quarter(losses[part], timesteps[part], num_timesteps)
        for part in (slice(cut), slice(cut, None))
    ]
    assert torch.equal(sum(parts), whole)
    assert whole.sum(dim=1).tolist() == [losses.sum().item(), len(timesteps)]
