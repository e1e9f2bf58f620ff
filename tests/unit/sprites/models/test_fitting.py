"""The training loop learns, resumes to the bit, follows its schedule, and leaves the averages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from animatediff.sprites.models.fitting import Fit, fit

TRUTH = torch.tensor([[1.0, -2.0, 0.5]])


class Killed(BaseException):
    """Ends a run as a signal does."""


def network():
    """Something with buffers that training changes, and with a frozen part."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 4), nn.Linear(4, 1))
    model[3].requires_grad_(False)
    return model


def regression(model, *, killed_at=None, seen=None):
    """A loss whose draws come from its step."""

    def loss(step):
        if step == killed_at:
            raise Killed
        if seen is not None:
            seen.append(step)
        x = torch.randn(32, 3, generator=torch.Generator().manual_seed(step))
        return (model(x) - x @ TRUTH.T).pow(2).mean()

    return loss


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class Slope(nn.Module):
    """One weight that goes downhill evenly: without decay, AdamW's step is then the learning rate itself."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.path = []

    def loss(self, step):
        self.path.append(self.weight.item())
        return self.weight.sum()


def descend(plan):
    """The weight before every step and after the last."""
    model = Slope()
    fit(model, model.loss, plan)
    return model


def test_a_regression_is_learned():
    model = nn.Linear(3, 1)
    fit(model, regression(model), Fit(num_steps=400, lr=0.05, warmup=10, ema_decay=0.9, weight_decay=0.0))
    torch.testing.assert_close(model.weight.data, TRUTH, atol=0.02, rtol=0)
    assert abs(model.bias.item()) < 0.02


def test_the_model_trains_in_training_mode_and_is_left_in_evaluation_mode():
    model, modes = network(), set()

    def loss(step):
        modes.add(model.training)
        return regression(model)(step)

    model.eval()
    fit(model, loss, Fit(num_steps=3, lr=0.01))
    assert modes == {True}
    assert not model.training


# At 7 no checkpoint is written yet; at 20 one is fresh; at 29 it is nine steps old.
@pytest.mark.parametrize(("killed_at", "goes_on_at"), [(7, 0), (20, 20), (29, 20)])
def test_a_killed_run_ends_with_the_same_weights_to_the_bit(tmp_path, killed_at, goes_on_at):
    plan = Fit(num_steps=35, lr=0.01, warmup=5, ema_decay=0.8, checkpoint_every=10)
    whole = network()
    fit(whole, regression(whole), plan)

    checkpoint = tmp_path / "runs" / "fit.pt"
    killed = network()
    with pytest.raises(Killed):
        fit(killed, regression(killed, killed_at=killed_at), plan, checkpoint)
    resumed, seen = network(), []
    fit(resumed, regression(resumed, seen=seen), plan, checkpoint)
    assert seen == list(range(goes_on_at, 35))
    assert same(resumed, whole)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["fit.pt"]  # no drafts are left


def test_a_finished_run_is_read_and_not_trained_again(tmp_path):
    plan = Fit(num_steps=8, lr=0.01, checkpoint_every=5)
    first, second, seen = network(), network(), []
    fit(first, regression(first), plan, tmp_path / "fit.pt")
    fit(second, regression(second, seen=seen), plan, tmp_path / "fit.pt")
    assert seen == []
    assert same(first, second)
    assert not second.training


def test_the_learning_rate_rises_evenly_stays_and_falls_evenly():
    plan = Fit(num_steps=60, lr=0.01, warmup=20, decay=0.25, ema_decay=0.0, weight_decay=0.0)
    model = descend(plan)
    rates = -np.diff([*model.path, model.weight.item()]) / plan.lr
    np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 20, atol=1e-6)
    np.testing.assert_allclose(rates[20:45], 1, atol=1e-6)
    np.testing.assert_allclose(rates[45:], [(15 - k) / 15 for k in range(15)], atol=1e-6)


def test_a_run_may_be_made_longer_before_its_rate_falls(tmp_path):
    plan = Fit(num_steps=40, lr=0.01, warmup=5, decay=0.3, checkpoint_every=10)
    longer = replace(plan, num_steps=60)
    whole, stopped, resumed = network(), network(), network()
    fit(whole, regression(whole), longer)
    with pytest.raises(Killed):
        fit(stopped, regression(stopped, killed_at=25), plan, tmp_path / "fit.pt")
    fit(resumed, regression(resumed), longer, tmp_path / "fit.pt")
    assert same(resumed, whole)


@pytest.mark.parametrize(("num_steps", "warmup"), [(10, 0), (3, 50), (5, 5)])
def test_any_warm_up_will_do(num_steps, warmup):
    path = descend(Fit(num_steps=num_steps, lr=0.01, warmup=warmup, weight_decay=0.0)).path
    assert len(path) == num_steps
    assert (np.diff(path) < 0).all()


def test_huge_gradients_are_clipped():
    model = nn.Linear(3, 1)
    norms = []
    model.weight.register_post_accumulate_grad_hook(lambda weight: norms.append(weight.grad.norm().item()))

    def loss(step):
        return (1e6 if step == 5 else 1.0) * model.weight.sum()

    calm = nn.Linear(3, 1)
    calm.load_state_dict(model.state_dict())
    plan = Fit(num_steps=10, lr=0.01, warmup=0)
    fit(model, loss, plan)
    fit(calm, lambda step: calm.weight.sum(), plan)
    assert max(norms) > 1e6
    torch.testing.assert_close(model.weight, calm.weight)


def test_frozen_parameters_stay_untouched():
    model, before = network(), network()
    fit(model, regression(model), Fit(num_steps=20, lr=0.1, weight_decay=0.5, warmup=0))
    assert same(model[3], before[3])
    assert not any(torch.equal(a, b) for a, b in zip(model[0].parameters(), before[0].parameters(), strict=True))
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]


def test_the_averaged_weights_are_what_is_left_in_the_model():
    plan = Fit(num_steps=30, lr=0.01, warmup=0, ema_decay=0.9, weight_decay=0.0)
    model, last = descend(plan), descend(Fit(30, 0.01, warmup=0, ema_decay=0.0, weight_decay=0.0))
    weights = [*last.path[1:], last.weight.item()]
    average = weights[0]
    for weight in weights[1:]:
        average = 0.9 * average + 0.1 * weight
    assert model.weight.item() == pytest.approx(average, rel=1e-9)
    assert last.weight.item() < average < 0


def test_torchs_own_random_state_is_left_alone():
    state = torch.random.get_rng_state()
    model = network()
    fit(model, regression(model), Fit(num_steps=3, lr=0.01))
    assert torch.equal(torch.random.get_rng_state(), state)
