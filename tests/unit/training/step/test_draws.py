"""What is random about a training step: it depends on seed, step and place alone, and is distributed as told."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from animatediff.training.settings import ObjectiveConfig, PicturesConfig
from animatediff.training.step.draws import (
    RandomSource,
    _generator,
    biased_timestep,
    correlate_noise,
    select_clips,
    take_single_frames,
)

SHAPE = (4, 4, 3, 2, 2)
REFERENCE = ObjectiveConfig()
ALL_OPTIONS = ObjectiveConfig(min_snr_gamma=5, noise_offset=0.1, shared_noise=0.5, timestep_power=2, fade_from=500)


def make_draws(shape=SHAPE, *, objective=REFERENCE, first_index=0, step=7, seed=1, caption_dropout=0.5):
    source = RandomSource(seed, 1000, caption_dropout, objective, PicturesConfig())
    return source.draw(shape, step=step, first_index=first_index)


@pytest.mark.parametrize("objective", [REFERENCE, ALL_OPTIONS], ids=["reference", "all options"])
def test_seed_step_and_clip_each_change_the_draws(objective):
    draws = make_draws((64, 4, 16, 1, 1), objective=objective)
    for other in (make_draws(step=8, objective=objective), make_draws(seed=2, objective=objective)):
        assert not torch.equal(other.noise, make_draws(objective=objective).noise)
        assert not torch.equal(other.timesteps, make_draws(objective=objective).timesteps)
    assert len(draws.noise.flatten(1).unique(dim=0)) == 64
    assert len(draws.timesteps.unique()) > 50


def test_without_options_the_draws_are_those_from_before_there_were_any():
    draws = make_draws((3, 4, 2, 2, 2), seed=42, step=1234, first_index=5)
    # Noted down then; torch's normal numbers differ in their last bits from one kind of processor to another.
    noise = [1.672597, -0.678245, 0.028299, -1.393272, 0.956278, 0.873304, 0.592435, -1.660919, 0.670767]
    assert draws.timesteps.tolist() == [50, 741, 428]
    assert draws.captions_dropped == [True, True, True]
    assert draws.noise[..., 0, 0].flatten(1)[:, :3].flatten().tolist() == pytest.approx(noise, abs=2e-6)
    # The code of then.
    generators = [_generator(42, 1234, 5 + i) for i in range(3)]
    assert torch.equal(draws.noise, torch.stack([torch.randn(4, 2, 2, 2, generator=g) for g in generators]))
    assert torch.equal(draws.timesteps, torch.cat([torch.randint(1000, (1,), generator=g) for g in generators]))
    assert draws.captions_dropped == [torch.rand(1, generator=g).item() < 0.5 for g in generators]


def test_options_leave_what_they_do_not_concern():
    plain, draws = make_draws(), make_draws(objective=ObjectiveConfig(timestep_power=3))
    assert torch.equal(draws.noise, plain.noise)
    assert draws.captions_dropped == plain.captions_dropped
    draws = make_draws(objective=ObjectiveConfig(noise_offset=0.1, shared_noise=0.5))
    assert torch.equal(draws.timesteps, plain.timesteps)
    assert draws.captions_dropped == plain.captions_dropped


@pytest.fixture(scope="module")
def many():
    return make_draws((8000, 1, 5, 1, 1), caption_dropout=0.1)


def test_captions_are_dropped_as_often_as_told(many):
    assert binomtest(sum(many.captions_dropped), 8000, 0.1).pvalue > 0.01
    assert not any(make_draws(caption_dropout=0.0).captions_dropped)
    assert all(make_draws(caption_dropout=1.0).captions_dropped)


def test_timesteps_and_frames_are_uniform(many):
    assert chisquare(torch.bincount(many.timesteps // 50, minlength=20)).pvalue > 0.01
    assert chisquare(torch.bincount(torch.tensor(many.frame_indices), minlength=5)).pvalue > 0.01


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


def test_the_draws_of_some_clips_are_theirs_among_the_whole_batchs():
    whole, some = make_draws(), select_clips(make_draws(), torch.tensor([2, 0]))
    assert torch.equal(some.noise, whole.noise[[2, 0]])
    assert torch.equal(some.timesteps, whole.timesteps[[2, 0]])
    assert some.captions_dropped == [whole.captions_dropped[2], whole.captions_dropped[0]]
    assert some.frame_indices == [whole.frame_indices[2], whole.frame_indices[0]]


def test_a_single_frame_is_the_drawn_one_with_its_own_noise():
    latents, draws = torch.randn(SHAPE), make_draws()
    frames, single = take_single_frames(latents, draws)
    for i, f in enumerate(draws.frame_indices):
        assert torch.equal(frames[i], latents[i, :, f : f + 1])
        assert torch.equal(single.noise[i], draws.noise[i, :, f : f + 1])
    assert torch.equal(single.timesteps, draws.timesteps)
    assert single.captions_dropped == draws.captions_dropped


def noise_of(num_clips, **options):
    """(b c f h w) of many clips."""
    g = torch.Generator().manual_seed(0)
    shape = (4, 3, 16, 16)
    return torch.stack(
        [correlate_noise(torch.randn(shape, generator=g), ObjectiveConfig(**options), g) for _ in range(num_clips)]
    )


def test_without_options_noise_is_left_alone_and_nothing_is_drawn():
    g = torch.Generator().manual_seed(0)
    before, noise = g.get_state(), torch.randn(4, 3, 2, 2)
    assert correlate_noise(noise, ObjectiveConfig(), g) is noise
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
@settings(max_examples=100)
def test_a_biased_timestep_is_always_one_of_the_schedule(num_timesteps, power, seed):
    timestep = biased_timestep(num_timesteps, power, torch.Generator().manual_seed(seed))
    assert timestep.shape == (1,)
    assert timestep.dtype == torch.int64
    assert 0 <= timestep.item() < num_timesteps
