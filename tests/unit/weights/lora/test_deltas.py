"""The arithmetic of low-rank changes, against the formulas written out in float64 and against peft."""

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from animatediff.weights.lora.deltas import LoHaDelta, LoKrDelta, LoraDelta, ProductDelta, delta_from_factors

SIZE = st.integers(1, 6)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scale_of(alpha):
    """alpha / rank; 1 for factors without a rank."""
    return lambda rank: 1.0 if rank is None else alpha / rank


def assert_is(change, expected):
    assert change.to_dense().dtype == torch.float32
    assert change.shape == tuple(expected.shape)
    torch.testing.assert_close(change.to_dense().double(), expected, atol=1e-5, rtol=1e-5)


def tucker(a, b, core):
    """sum over r, s of a[r, o] b[s, i] core[r, s, h, w], one kernel position at a time."""
    positions = [
        [a.double().T @ core[..., h, w].double() @ b.double() for w in range(core.shape[3])]
        for h in range(core.shape[2])
    ]
    return torch.stack([torch.stack(row, -1) for row in positions], -2)


@settings(max_examples=40)
@given(out=SIZE, into=SIZE, rank=SIZE, kernel=st.sampled_from([(), (1, 1), (3, 3), (2, 1)]), alpha=st.floats(-4, 4))
def test_low_rank(out, into, rank, kernel, alpha):
    up, down = draw(out, rank), draw(rank, into, *kernel, seed=1)
    up = up[:, :, None, None] if kernel else up
    change = delta_from_factors({"up": up, "down": down}, scale_of(alpha))
    product = torch.einsum("or,r...->o...", up.double().flatten(1), down.double())
    assert isinstance(change, LoraDelta)
    assert_is(change, alpha / rank * product)


@settings(max_examples=25)
@given(out=SIZE, into=SIZE, rank=SIZE, height=st.integers(1, 3), width=st.integers(1, 3))
def test_a_core_is_the_convolution_in_the_middle(out, into, rank, height, width):
    down, mid, up = draw(rank, into, 1, 1), draw(rank, rank, height, width, seed=1), draw(out, rank, 1, 1, seed=2)
    change = delta_from_factors({"up": up, "down": down, "mid": mid}, scale_of(3))
    assert_is(change, 3 / rank * tucker(up.flatten(1).T, down.flatten(1), mid))
    # What it means: three convolutions in a row are one with this kernel.
    image = draw(1, into, 5, 5, seed=3).double()
    chain = image
    for kernel in (down, mid, up):
        chain = nn.functional.conv2d(chain, kernel.double())
    whole = nn.functional.conv2d(image, change.to_dense().double()) / (3 / rank)
    torch.testing.assert_close(whole, chain, atol=1e-4, rtol=1e-4)


@settings(max_examples=40)
@given(out=SIZE, into=SIZE, rank=SIZE, has_core=st.booleans(), alpha=st.floats(-4, 4))
def test_loha(out, into, rank, has_core, alpha):
    names = [f"hada_w{i}_{side}" for i in (1, 2) for side in "ab"]
    if has_core:
        factors = {name: draw(rank, out if name[-1] == "a" else into, seed=i) for i, name in enumerate(names)}
        factors |= {f"hada_t{i}": draw(rank, rank, 3, 2, seed=4 + i) for i in (1, 2)}
        first, second = (
            tucker(factors[f"hada_w{i}_a"], factors[f"hada_w{i}_b"], factors[f"hada_t{i}"]) for i in (1, 2)
        )
    else:
        shapes = {"a": (out, rank), "b": (rank, into)}
        factors = {name: draw(*shapes[name[-1]], seed=i) for i, name in enumerate(names)}
        first, second = (factors[f"hada_w{i}_a"].double() @ factors[f"hada_w{i}_b"].double() for i in (1, 2))
    change = delta_from_factors(factors, scale_of(alpha))
    assert isinstance(change, LoHaDelta)
    assert_is(change, alpha / rank * first * second)


@settings(max_examples=60)
@given(
    outs=st.tuples(SIZE, SIZE),
    ins=st.tuples(SIZE, SIZE),
    rank=SIZE,
    first=st.sampled_from(["whole", "pair"]),
    second=st.sampled_from(["whole", "kernel", "pair", "core"]),
    alpha=st.floats(-4, 4),
)
def test_lokr(outs, ins, rank, first, second, alpha):
    if first == "whole":
        factors = {"lokr_w1": draw(outs[0], ins[0])}
        w1 = factors["lokr_w1"].double()
    else:
        factors = {"lokr_w1_a": draw(outs[0], rank), "lokr_w1_b": draw(rank, ins[0], seed=1)}
        w1 = factors["lokr_w1_a"].double() @ factors["lokr_w1_b"].double()
    if second in ("whole", "kernel"):
        factors["lokr_w2"] = draw(outs[1], ins[1], *((3, 2) if second == "kernel" else ()), seed=2)
        w2 = factors["lokr_w2"].double()
    elif second == "pair":
        factors |= {"lokr_w2_a": draw(outs[1], rank, seed=2), "lokr_w2_b": draw(rank, ins[1], seed=3)}
        w2 = factors["lokr_w2_a"].double() @ factors["lokr_w2_b"].double()
    else:
        factors |= {"lokr_w2_a": draw(rank, outs[1], seed=2), "lokr_w2_b": draw(rank, ins[1], seed=3)}
        factors["lokr_t2"] = draw(rank, rank, 3, 2, seed=4)
        w2 = tucker(factors["lokr_w2_a"], factors["lokr_w2_b"], factors["lokr_t2"])
    # Block (p, q) of the change is w1[p, q] times the whole of w2.
    blocks = torch.einsum("pq,oi...->poqi...", w1, w2)
    expected = blocks.reshape(outs[0] * outs[1], ins[0] * ins[1], *w2.shape[2:])
    has_rank = first == "pair" or second in ("pair", "core")
    change = delta_from_factors(factors, scale_of(alpha))
    assert isinstance(change, LoKrDelta)
    assert_is(change, (alpha / rank if has_rank else 1) * expected)


def test_a_full_difference_is_itself():
    for shape in ((4, 3), (4, 3, 3, 3), (4,)):
        change = delta_from_factors({"diff": draw(*shape)}, scale_of(7))
        assert isinstance(change, ProductDelta)
        assert_is(change, draw(*shape).double())


class Layers(nn.Module):
    """Something for peft to adapt."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(24, 40)
        self.conv = nn.Conv2d(16, 24, 3)
        self.point = nn.Conv2d(16, 24, 1)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoHaConfig(r=3, alpha=5, init_weights=False),
        peft.LoHaConfig(r=3, alpha=5, init_weights=False, use_effective_conv2d=True),
        peft.LoKrConfig(r=2, alpha=5, init_weights=False),
        peft.LoKrConfig(r=2, alpha=5, init_weights=False, decompose_both=True, decompose_factor=4),
        peft.LoKrConfig(r=2, alpha=5, init_weights=False, use_effective_conv2d=True),
        peft.LoKrConfig(r=64, alpha=5, init_weights=False),
    ],
    ids=["LoHa", "LoHa with core", "LoKr", "LoKr of pairs", "LoKr with core", "LoKr of whole matrices"],
)
def test_peft_says_the_same(config):
    config.target_modules = ["linear", "conv", "point"]
    model = peft.get_peft_model(Layers(), config)
    for name in config.target_modules:
        layer = getattr(model.base_model.model, name)
        factors = {
            key.split(".")[0]: parameter.detach()
            for key, parameter in layer.named_parameters()
            if key.startswith(("hada", "lokr"))
        }
        # peft scales whole matrices as well.
        change = delta_from_factors(factors, lambda rank: config.alpha / config.r)
        expected = layer.get_delta_weight("default").detach()
        torch.testing.assert_close(change.to_dense().reshape(expected.shape), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_small_floats_are_multiplied_in_float32(dtype):
    factors = {"up": draw(8, 4).to(dtype), "down": draw(4, 8).to(dtype)}
    expected = factors["up"].double() @ factors["down"].double()
    assert_is(delta_from_factors(factors, scale_of(4)), expected)


def test_factors_move_together():
    meta = torch.device("meta")
    pair = {"up": draw(8, 4), "down": draw(4, 6)}
    loha = {f"hada_w{i}_{side}": draw(*((8, 4) if side == "a" else (4, 6))) for i in (1, 2) for side in "ab"}
    for factors in (pair, loha):
        change = delta_from_factors(factors, scale_of(2))
        moved = change.to(meta)
        assert moved.to_dense().device == meta
        assert (moved.shape, moved.scale) == (change.shape, change.scale)
        assert change.to_dense().device.type == "cpu"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"up": (4, 2), "down": (3, 4)}, "rank 3 and 2"),
        ({"up": (4, 2, 3, 3), "down": (2, 4)}, "not a matrix"),
        ({"up": (4, 2), "down": (2, 4, 3)}, r"down is \[2, 4, 3\]"),
        ({"up": (4, 2)}, "incomplete.*up"),
        ({}, "only alpha"),
        ({"up": (4, 2), "down": (2, 4), "diff": (4, 4)}, "several kinds"),
        ({"up": (4, 2), "down": (2, 4), "mid": (3, 3, 1, 1)}, "core"),
        ({"hada_w1_a": (4, 2), "hada_w1_b": (2, 4)}, "incomplete"),
        (
            {"hada_w1_a": (4, 2), "hada_w1_b": (2, 4), "hada_w2_a": (4, 2), "hada_w2_b": (2, 5)},
            r"\[4, 4\] and \[4, 5\]",
        ),
        ({"lokr_w1": (2, 2)}, "incomplete"),
        ({"lokr_w1": (2, 2), "lokr_w1_b": (2, 2), "lokr_w2": (2, 2)}, "several kinds"),
        ({"lokr_w1": (2, 2, 1), "lokr_w2": (2, 2)}, "two products"),
        ({"lokr_w1": (2, 2), "lokr_w2_a": (2, 3), "lokr_w2_b": (3, 2), "lokr_t2": (3, 3, 1, 1)}, "core"),
    ],
)
def test_factors_that_do_not_go_together(shapes, message):
    with pytest.raises(ValueError, match=message):
        delta_from_factors({name: draw(*shape) for name, shape in shapes.items()}, scale_of(1))
