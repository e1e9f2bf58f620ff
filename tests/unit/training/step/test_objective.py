import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from animatediff.diffusion.schedule import NoiseSchedule, compute_alphas_cumprod
from animatediff.training.settings import ObjectiveConfig
from animatediff.training.step.denoising_loss import min_snr_weights, quartile_sums
from animatediff.training.step.draws import biased_timestep, with_shared_parts


def noise_of(num_clips, **options):
    """(b c f h w) of many clips."""
    g = torch.Generator().manual_seed(0)
    shape = (4, 3, 16, 16)
    return torch.stack(
        [with_shared_parts(torch.randn(shape, generator=g), ObjectiveConfig(**options), g) for _ in range(num_clips)]
    )


def test_by_default_nothing_departs_from_the_reference():
    assert ObjectiveConfig().model_dump() == {
        "min_snr_gamma": None,
        "fade_from": None,
        "noise_offset": 0,
        "shared_noise": 0,
        "timestep_power": 1,
    }


def test_without_options_noise_is_left_alone_and_nothing_is_drawn():
    g = torch.Generator().manual_seed(0)
    before, noise = g.get_state(), torch.randn(4, 3, 2, 2)
    assert with_shared_parts(noise, ObjectiveConfig(), g) is noise
    assert torch.equal(g.get_state(), before)


@pytest.mark.parametrize("offset", [0.1, 0.5])
def test_a_noise_offset_is_one_normal_number_a_clip_and_channel(offset):
    plain, noise = noise_of(1), noise_of(1, noise_offset=offset)
    added = (noise - plain).flatten(2)
    assert torch.allclose(added, added[..., :1], atol=1e-6)
    means = noise_of(500, noise_offset=offset).mean(dim=(2, 3, 4))
    # 2000 means; those of the independent part have a variance of 1 / 768.
    assert means.var().item() == pytest.approx(offset**2 + 1 / 768, rel=0.12)
    assert torch.corrcoef(means.T).fill_diagonal_(0).abs().max() < 0.15


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_shared_noise_is_the_frames_correlation_and_keeps_the_variance(share):
    noise = noise_of(64, shared_noise=share)
    correlations = torch.corrcoef(noise.movedim(2, 0).flatten(1))[[0, 0, 1], [1, 2, 2]]
    # 65536 numbers a frame: a standard error below 0.004.
    assert correlations.tolist() == pytest.approx([share] * 3, abs=0.016)
    assert noise.var(dim=(0, 1, 3, 4)).tolist() == pytest.approx([1] * 3, abs=0.025)
    pixels = torch.corrcoef(noise[:, 0, 0].flatten(1).T).fill_diagonal_(0)
    assert pixels.mean().item() == pytest.approx(0, abs=0.01)


def test_shared_noise_and_an_offset_add_up():
    noise = noise_of(300, shared_noise=0.5, noise_offset=0.5)
    assert noise.var().item() == pytest.approx(1 + 0.25, abs=0.05)


@given(st.integers(2, 2000), st.floats(0.05, 1e6), st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_a_biased_timestep_is_always_one_of_the_schedule(num_timesteps, power, seed):
    timestep = biased_timestep(num_timesteps, power, torch.Generator().manual_seed(seed))
    assert timestep.shape == (1,)
    assert timestep.dtype == torch.int64
    assert 0 <= timestep.item() < num_timesteps


@pytest.mark.parametrize(("prediction_type", "added"), [("epsilon", 0), ("v_prediction", 1)])
@given(st.floats(1e-6, 1 - 1e-4), st.floats(0.1, 20))
@settings(deadline=None, max_examples=60)
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
    sums = quartile_sums(losses, torch.tensor([0, 249, 250, 999, 749]), 1000)
    assert sums.tolist() == [[3, 4, 16, 8], [2, 1, 1, 1]]
    assert not sums.requires_grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_left_out(bad):
    sums = quartile_sums(torch.tensor([1.0, bad, 3.0]), torch.tensor([0, 999, 998]), 1000)
    assert sums.tolist() == [[1, 0, 0, 3], [1, 0, 0, 1]]


@given(st.data(), st.integers(2, 1500))
@settings(deadline=None, max_examples=50)
def test_quartile_sums_of_parts_add_up_to_those_of_the_whole(data, num_timesteps):
    timesteps = torch.tensor(data.draw(st.lists(st.integers(0, num_timesteps - 1), min_size=1, max_size=9)))
    losses, cut = torch.arange(1.0, len(timesteps) + 1), data.draw(st.integers(0, len(timesteps)))
    whole = quartile_sums(losses, timesteps, num_timesteps)
    parts = [quartile_sums(losses[part], timesteps[part], num_timesteps) for part in (slice(cut), slice(cut, None))]
    assert torch.equal(sum(parts), whole)
    assert whole.sum(dim=1).tolist() == [losses.sum().item(), len(timesteps)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_snr_gamma": 0},
        {"noise_offset": -0.1},
        {"shared_noise": 1},
        {"shared_noise": -0.1},
        {"timestep_power": 0},
        {"fade_from": -1},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValidationError):
        ObjectiveConfig(**wrong)
