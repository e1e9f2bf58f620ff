import math

import pytest
import torch
from pydantic import ValidationError

from animatediff.training.settings import OptimConfig, TrainingLoopConfig
from animatediff.training.step.optimizer import keep_loss_scale_above_one, learning_rate, make_optimizer, optimizer_step

OFF = torch.amp.GradScaler("cpu", enabled=False)


def test_an_update_clips_tells_the_whole_norm_and_clears():
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer = make_optimizer([weight], OptimConfig(lr=0.1))
    (weight * torch.tensor([30.0, 40.0, 0.0, 0.0])).sum().backward()
    done = optimizer_step(optimizer, OFF, [weight], max_grad_norm=1.0)
    assert done.grad_norm.item() == pytest.approx(50)
    assert weight.grad is None
    assert weight.abs().max().item() == pytest.approx(0.1, abs=1e-3)
    assert optimizer.state[weight]["exp_avg"].norm().item() == pytest.approx(0.1, abs=1e-3)


def test_the_defaults_are_the_references():
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))], OptimConfig())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-4, (0.9, 0.999), 1e-8, 1e-2)
    assert OptimConfig().max_grad_norm == 1.0
    assert TrainingLoopConfig().caption_dropout == 0.1


def test_wrong_values_are_refused():
    with pytest.raises(ValidationError):
        OptimConfig(lr=0)
    with pytest.raises(ValidationError):
        TrainingLoopConfig(caption_dropout=1.5)


def test_the_learning_rate_rises_stays_and_falls_and_is_constant_by_default():
    config = OptimConfig(lr=0.1, warmup_steps=4, decay_steps=5)
    rates = [learning_rate(config, step=step, num_steps=12) for step in range(12)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, *[0.1] * 5, 0.08, 0.06, 0.04, 0.02])
    assert {learning_rate(OptimConfig(lr=0.1), step=step, num_steps=12) for step in range(12)} == {0.1}


def test_a_cosine_falls_along_half_a_wave():
    config = OptimConfig(lr=0.2, warmup_steps=2, decay_steps=8, decay="cosine")
    rates = [learning_rate(config, step=step, num_steps=10) for step in range(10)]
    falling = [0.1 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert rates == pytest.approx([0.1, 0.2, *falling])


def step_of(weight, optimizer, gradient, scaler=OFF):
    weight.grad = torch.full_like(weight, gradient)
    return optimizer_step(optimizer, scaler, [weight], max_grad_norm=1.0)


@pytest.mark.parametrize("gradient", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_leaves_weights_moments_and_step_count_alone(gradient):
    weight, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer, without = make_optimizer([weight], OptimConfig()), make_optimizer([other], OptimConfig())
    finite = [bool(step_of(weight, optimizer, g).is_finite) for g in (1.0, gradient, 2.0)]
    for g in (1.0, 2.0):
        step_of(other, without, g)
    assert finite == [True, False, True]
    assert torch.equal(weight, other)
    for name, value in optimizer.state[weight].items():
        assert torch.equal(value, without.state[other][name])


def test_the_loss_scaler_halves_on_overflow_and_otherwise_changes_nothing():
    weight, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer, without = make_optimizer([weight], OptimConfig()), make_optimizer([other], OptimConfig())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for gradient in (0.25, math.inf, 0.5):
        scaler.scale((weight * gradient).sum()).backward()
        done = optimizer_step(optimizer, scaler, [weight], max_grad_norm=1.0)
    for gradient in (0.25, 0.5):
        step_of(other, without, gradient)
    assert scaler.get_scale() == 512.0
    assert done.grad_norm.item() == pytest.approx(0.5 * math.sqrt(3))
    assert torch.equal(weight, other)


def test_broken_clips_take_the_loss_scale_to_1_and_no_further():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make_optimizer([weight], OptimConfig())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scales = []
    for gradient in [math.nan] * 6:
        scaler.scale((weight * gradient).sum()).backward()
        optimizer_step(optimizer, scaler, [weight], max_grad_norm=1.0)
        keep_loss_scale_above_one(scaler)
        scales.append(scaler.get_scale())
    assert scales == [2, 1, 1, 1, 1, 1]
    scaler.scale(weight.sum()).backward()
    assert bool(optimizer_step(optimizer, scaler, [weight], max_grad_norm=1.0).is_finite)
    assert not torch.equal(weight, torch.ones(3))
