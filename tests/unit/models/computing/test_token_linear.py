"""Linear layers as convolutions are linear layers within rounding, and are taken where they pay."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from hypothesis import example, given, settings
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

    monkeypatch.setattr(token_linear, "_MULTIPLIES_BY_HALF", True)
    monkeypatch.setattr(F, "conv2d", seen)
    return shapes


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(1, 40),
    frames=st.sampled_from((16, 16, 16, 32, 5)),
    channels=st.tuples(*[st.sampled_from((128, 160, 320, 64))] * 2),
    has_bias=st.booleans(),
    layout=st.sampled_from(("whole", "part", "turned")),
    seed=st.integers(0, 99),
)
@example(rows=16, frames=16, channels=(128, 128), has_bias=False, layout="turned", seed=0)
def test_outputs_and_gradients_are_those_of_a_linear_layer(rows, frames, channels, has_bias, layout, seed):
    torch.manual_seed(seed)
    inner, outer = channels
    x = {
        "whole": torch.randn(rows, frames, inner),
        "part": torch.randn(rows, frames, 2 * inner)[..., inner:],
        "turned": torch.randn(inner, frames, rows).transpose(0, 2),
    }[layout]
    values = [x, torch.randn(outer, inner) / inner**0.5, torch.randn(outer)]
    asked, found = torch.randn(rows, frames, outer), []
    for product in (linear, F.linear):
        learned = [value.detach().requires_grad_() for value in values[: 2 + has_bias]]
        out = product(*learned)
        found.append([out, *torch.autograd.grad(out, learned, asked)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)
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
    monkeypatch.setattr(token_linear, "_MULTIPLIES_BY_HALF", False)
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
        monkeypatch.setattr(token_linear, "_MULTIPLIES_BY_HALF", is_on)
        number = len(convolved)
        out = module(x, 16, text)
        found.append([out, *torch.autograd.grad(out.square().mean(), list(module.parameters()))])
        assert (len(convolved) > number) == is_on
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.detach().abs().max().item())


def test_a_feed_forward_of_token_linears_is_diffusers_own(convolved):
    torch.manual_seed(0)
    plain = FeedForward(128, activation_fn="geglu")
    ours = MemoryEfficientFeedForward(128)
    ours.load_state_dict(plain.state_dict())
    use_token_linear(ours)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    x, asked = torch.randn(2, 1500, 128), torch.randn(2, 1500, 128)
    found = []
    for each in (ours, plain):
        learned = [x.detach().requires_grad_(), *each.parameters()]
        out = each(learned[0])
        found.append([out, *torch.autograd.grad(out, learned, asked)])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)
    # Slices of 992, 1008 and 1000 tokens, the last no multiple of 16: the first two are convolved forward, backward,
    # and where 1,024 weights learn (those of 128 are too few); of the last only that.
    assert len(convolved) == 2 * (2 + 2 + 1) + 1


def test_it_compiles_to_one_graph(convolved):
    torch.manual_seed(0)
    module = MotionModule(128, MotionConfig())
    torch.nn.init.normal_(module.temporal_transformer.proj_out.weight)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    x = torch.randn(16, 128, 8, 8)
    with torch.no_grad():
        assert torch.equal(compiled(x, 16), module(x, 16))
    assert convolved
