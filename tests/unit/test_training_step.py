import pytest
import torch
from pydantic import ValidationError

from animatediff.diffusion.schedule import NoiseSchedule, alphas_cumprod
from animatediff.training.optimizer import OptimConfig, learning_rate, make_optimizer
from animatediff.training.recipe import StepConfig
from animatediff.training.step import Draws, draw, noise_loss, update

SHAPE = (4, 4, 3, 2, 2)


def make_draws(shape=SHAPE, *, first_index=0, step=7, seed=1, caption_dropout=0.5):
    return draw(
        shape, seed=seed, step=step, first_index=first_index, num_timesteps=1000, caption_dropout=caption_dropout
    )


def test_a_clips_draws_do_not_depend_on_the_number_of_workers():
    whole = make_draws()
    halves = [make_draws((2, *SHAPE[1:]), first_index=first) for first in (0, 2)]
    assert torch.equal(torch.cat([half.noise for half in halves]), whole.noise)
    assert torch.equal(torch.cat([half.timesteps for half in halves]), whole.timesteps)
    assert halves[0].dropped + halves[1].dropped == whole.dropped


def test_seed_step_and_clip_each_change_the_noise():
    noise = make_draws().noise
    assert not torch.equal(make_draws(step=8).noise, noise)
    assert not torch.equal(make_draws(seed=2).noise, noise)
    assert not torch.equal(noise[0], noise[1])


def test_the_draws_are_distributed_as_told():
    draws = make_draws((500, 1, 1, 2, 2), caption_dropout=0.1)
    assert draws.timesteps.min() >= 0
    assert draws.timesteps.max() <= 999
    assert 400 < draws.timesteps.float().mean() < 600
    assert 0.05 < sum(draws.dropped) / 500 < 0.16
    assert draws.noise.std().item() == pytest.approx(1, abs=0.05)
    assert not any(make_draws(caption_dropout=0.0).dropped)


def test_the_loss_is_the_float32_error_of_the_noise():
    schedule = NoiseSchedule()
    noise, latents = torch.randn(SHAPE), torch.zeros(SHAPE)
    draws = Draws(noise, torch.tensor([999, 500, 3, 3]), [False] * 4)
    seen = {}

    def predict(noisy, timesteps, text):
        seen.update(noisy=noisy, timesteps=timesteps)
        return noise.bfloat16() + 1

    loss = noise_loss(predict, latents, torch.zeros(4, 1, 1), draws, alphas_cumprod(schedule))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1, abs=0.01)
    assert torch.equal(seen["timesteps"], draws.timesteps)
    kept = alphas_cumprod(schedule)[draws.timesteps].reshape(4, 1, 1, 1, 1)
    torch.testing.assert_close(seen["noisy"], (1 - kept).sqrt() * noise)


def test_an_update_clips_tells_the_whole_norm_and_clears():
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = make_optimizer([weight], OptimConfig(lr=0.1))
    (weight * torch.tensor([30.0, 40.0, 0.0, 0.0])).sum().backward()
    assert update(optimizer, [weight], max_grad_norm=1.0).item() == pytest.approx(50)
    assert weight.grad is None
    assert weight.abs().max().item() == pytest.approx(0.1, abs=1e-3)
    assert optimizer.state[weight]["exp_avg"].norm().item() == pytest.approx(0.1, abs=1e-3)


def test_the_defaults_are_the_references():
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], OptimConfig())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 1e-8, 1e-2)
    assert OptimConfig().max_grad_norm == 1.0
    assert StepConfig().caption_dropout == 0.1


def test_wrong_values_are_refused():
    with pytest.raises(ValidationError):
        OptimConfig(lr=0)
    with pytest.raises(ValidationError):
        StepConfig(caption_dropout=1.5)


def test_the_learning_rate_rises_stays_and_falls_and_is_constant_by_default():
    config = OptimConfig(lr=0.1, warmup_steps=4, decay_steps=5)
    rates = [learning_rate(config, step=step, num_steps=12) for step in range(12)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, *[0.1] * 5, 0.08, 0.06, 0.04, 0.02])
    assert {learning_rate(OptimConfig(lr=0.1), step=step, num_steps=12) for step in range(12)} == {0.1}
