import pytest
import torch

from animatediff.training.state.ema import Ema


def test_the_average_equals_its_closed_form():
    torch.manual_seed(0)
    values = torch.randn(40, 3)
    weight = torch.nn.Parameter(values[0].clone())
    ema = Ema([weight], 0.8)
    for step, value in enumerate(values[1:]):
        with torch.no_grad():
            weight.copy_(value)
        ema.update(step)
    decays = [min(0.8, (1 + step) / (10 + step)) for step in range(39)]
    # Each value's weight is what was left for it, times what all later ones left of it.
    shares = torch.tensor([1.0, *(1 - d for d in decays)])
    for i in range(40):
        shares[i] *= torch.tensor(decays[i:]).prod()
    assert shares.sum().item() == pytest.approx(1)
    torch.testing.assert_close(ema.averages[0], (shares[:, None] * values).sum(dim=0))


def test_the_decay_rises_to_its_full_value():
    ema = Ema([torch.nn.Parameter(torch.zeros(1))], 0.9)
    assert [ema.decay_at(step) for step in (0, 8, 90, 10_000)] == [0.1, 0.5, 0.9, 0.9]


def test_the_averages_are_in_place_inside_and_the_weights_after():
    weight = torch.nn.Parameter(torch.zeros(2))
    ema = Ema([weight], 0.5)
    with torch.no_grad():
        weight.fill_(3.0)
    with ema.averages_swapped_in():
        assert weight.tolist() == [0.0, 0.0]
    assert weight.tolist() == [3.0, 3.0]
    assert ema.averages[0].tolist() == [0.0, 0.0]
