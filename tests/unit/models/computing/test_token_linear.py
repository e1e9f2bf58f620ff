"""Linear layers as convolutions are linear layers within rounding, and are taken where they pay."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff.models.computing import token_linear
from animatediff.models.computing.token_linear import TokenLinear, linear, use_token_linear
from animatediff.models.config import MotionConfig
from animatediff.models.feed_forward import MemoryEfficientFeedForward
from animatediff.models.motion_module import MotionModule


@pytest.fixture(autouse=True)
def convolved(monkeypatch):
    """Let this be an AMD with AVX-512; the shapes that are convolved."""
    shapes = []
    convolve = F.conv2d

    def seen(x, *rest):
        shapes.append(tuple(x.shape))
        return convolve(x, *rest)

    monkeypatch.setattr(token_linear, "_multiplies_by_half", lambda: True)
    monkeypatch.setattr(F, "conv2d", seen)
    return shapes


@settings(deadline=None, max_examples=20)
@given(
    tokens=st.tuples(st.integers(1, 40), st.integers(1, 32)),
    channels=st.tuples(*[st.sampled_from((64, 128, 160, 320))] * 2),
    has_bias=st.booleans(),
    is_apart=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_a_linear_layer(tokens, channels, has_bias, is_apart):
    inner, outer = channels
    x = torch.randn(*tokens, 2 * inner)[..., :inner] if is_apart else torch.randn(*tokens, inner)
    values = [x, torch.randn(outer, inner) / inner**0.5, torch.randn(outer)]
    found = []
    for product in (linear, F.linear):
        given_values = [value.clone().requires_grad_() for value in values[: 2 + has_bias]]
        out = product(*given_values)
        found.append([out, *torch.autograd.grad(out, given_values, torch.ones_like(out))])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    assert found[0][0].is_contiguous()


@pytest.mark.parametrize(
    ("tokens", "weight", "is_convolved"),
    [
        ((16, 16), (128, 128), True),
        ((17, 16), (128, 128), True),
        ((15, 16), (128, 128), False),  # few tokens
        ((17, 17), (128, 128), False),  # no multiple of 16
        ((16, 16), (64, 512), False),  # few channels
        ((16, 16), (2048, 2560), False),  # many weights
    ],
)
def test_it_is_a_convolution_where_that_pays(convolved, tokens, weight, is_convolved):
    with torch.no_grad():
        linear(torch.zeros(*tokens, weight[1]), torch.zeros(weight))
    assert bool(convolved) == is_convolved


def test_other_precisions_and_devices_have_their_own_products(convolved, monkeypatch):
    layer = TokenLinear(128, 128)
    x = torch.zeros(16, 16, 128)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    layer.to(torch.bfloat16)(x.to(torch.bfloat16))
    layer.to("meta")(x.to("meta"))
    assert convolved == []
    monkeypatch.setattr(token_linear, "_multiplies_by_half", lambda: False)
    TokenLinear(128, 128)(x)
    assert convolved == []


def test_a_fresh_motion_module_stays_the_identity_bit_for_bit(convolved):
    x = torch.randn(32, 128, 8, 8)
    assert torch.equal(MotionModule(128, MotionConfig())(x, 16), x)
    assert len(convolved) >= 8


def test_a_motion_module_learns_the_same_either_way(convolved, monkeypatch):
    torch.manual_seed(0)
    module = MotionModule(128, MotionConfig(text_width=128))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, text = torch.randn(16, 128, 8, 8), torch.randn(1, 300, 128)
    found = []
    for is_on in (True, False):
        monkeypatch.setattr(token_linear, "_multiplies_by_half", lambda is_on=is_on: is_on)
        number = len(convolved)
        out = module(x, 16, text)
        found.append([out, *torch.autograd.grad(out.square().mean(), list(module.parameters()))])
        assert (len(convolved) > number) == is_on
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.detach().abs().max().item())


def test_a_feed_forward_keeps_its_weights_and_hooks(convolved):
    torch.manual_seed(0)
    plain = FeedForward(128, activation_fn="geglu")
    ours = MemoryEfficientFeedForward(128)
    ours.load_state_dict(plain.state_dict())
    calls = []
    ours.register_forward_hook(lambda *_: calls.append(1))
    use_token_linear(ours)
    x = torch.randn(2, 256, 128)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)
    assert len(convolved) == 2
    assert calls == [1]
    assert ours.state_dict().keys() == plain.state_dict().keys()
