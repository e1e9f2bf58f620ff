"""Prompt travel: exact at keys, held or wrapped at the ends, and between them as the formulas say."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from animatediff.diffusion.prompt_travel import embeddings_of_frames
from animatediff.diffusion.travel import Travel


def random(seed):
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))


A, B = map(random, range(2))


def frames(keys, num_frames, *, loop=False, **travel):
    return embeddings_of_frames(keys, num_frames, Travel(**travel), loop=loop)


def shares(keys, num_frames, **options):
    """Each frame's share of B on a way of keys that are A or B."""
    found = frames(
        {key: {"a": torch.zeros(2, 3), "b": torch.ones(2, 3)}[name] for key, name in keys.items()},
        num_frames,
        **options,
    )
    assert all((frame == frame[0, 0]).all() for frame in found)
    return [frame[0, 0].item() for frame in found]


@given(
    st.dictionaries(st.integers(0, 19), st.integers(0, 3), min_size=1),
    st.sampled_from(["linear", "slerp"]),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_at_keys_it_is_the_keys_own_bit_for_bit(keys, interpolation, dwell, loop, dtype):
    tensors = {frame: random(seed).to(dtype) for frame, seed in keys.items()}
    found = frames(tensors, 20, interpolation=interpolation, dwell=dwell, loop=loop)
    assert (found.shape, found.dtype) == ((20, 5, 8), dtype)
    assert torch.isfinite(found).all()
    for frame, tensor in tensors.items():
        assert torch.equal(found[frame], tensor)
    if not loop:
        first, last = min(keys), max(keys)
        assert all(torch.equal(found[i], tensors[first]) for i in range(first))
        assert all(torch.equal(found[i], tensors[last]) for i in range(last, 20))


@given(st.integers(0, 9), st.floats(0, 1), st.booleans(), st.sampled_from(["linear", "slerp"]))
def test_one_prompt_is_held_in_every_frame(key, dwell, loop, interpolation):
    assert all(torch.equal(f, A) for f in frames({key: A}, 10, dwell=dwell, loop=loop, interpolation=interpolation))


def test_two_keys_of_one_prompt_hold_it():
    assert all(torch.equal(f, A) for f in frames({0: A, 7: A}, 10, loop=True))


def test_linear():
    assert shares({0: "a", 4: "b"}, 6) == [0, 0.25, 0.5, 0.75, 1, 1]
    assert shares({2: "a", 4: "b"}, 6) == [0, 0, 0, 0.5, 1, 1]
    torch.testing.assert_close(frames({0: A, 4: B}, 5)[1], 0.75 * A + 0.25 * B)


def test_a_loop_travels_from_the_last_to_the_first_around_the_end():
    assert shares({0: "a", 4: "b"}, 8, loop=True) == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]
    assert shares({1: "b", 3: "a"}, 4, loop=True) == [0.5, 1, 0.5, 0]


@given(st.dictionaries(st.integers(0, 11), st.integers(0, 3), min_size=1), st.integers(0, 11), st.floats(0, 1))
def test_a_loop_has_no_first_frame(keys, turn, dwell):
    turned = frames({(frame + turn) % 12: random(seed) for frame, seed in keys.items()}, 12, loop=True, dwell=dwell)
    plain = frames({frame: random(seed) for frame, seed in keys.items()}, 12, loop=True, dwell=dwell)
    assert torch.equal(turned, plain.roll(turn, dims=0))


def test_dwell_holds_for_its_share_of_the_way():
    assert shares({0: "a", 8: "b"}, 9, dwell=0.5) == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1]
    assert shares({0: "a", 4: "b"}, 5, dwell=1.0) == [0, 0, 0, 0, 1]
    assert shares({0: "b", 4: "a"}, 8, dwell=0.5, loop=True) == [1, 1, 1, 0.5, 0, 0, 0, 0.5]


def test_slerp_keeps_the_angle_even_and_equal_lengths():
    a, b = (tensor / tensor.norm() for tensor in (A, B))
    found = frames({0: a, 6: b}, 7, interpolation="slerp")
    whole = math.acos((a * b).sum().item())
    for i, frame in enumerate(found):
        assert frame.norm().item() == pytest.approx(1, abs=1e-5)
        assert math.acos(min(1, (a * frame).sum().item())) == pytest.approx(whole * i / 6, abs=1e-3)


def test_slerp_is_over_the_whole_tensor_and_keeps_lengths_apart():
    angle = torch.acos((A.flatten() @ (3 * B).flatten()) / (A.norm() * (3 * B).norm()))
    wanted = (torch.sin(0.75 * angle) * A + torch.sin(0.25 * angle) * 3 * B) / torch.sin(angle)
    torch.testing.assert_close(frames({0: A, 4: 3 * B}, 5, interpolation="slerp")[1], wanted)


def test_nearly_parallel_ones_go_along_the_line():
    near = A + 1e-3 * B
    assert torch.equal(frames({0: A, 4: near}, 5, interpolation="slerp"), frames({0: A, 4: near}, 5))
    torch.testing.assert_close(frames({0: A, 2: -A}, 3, interpolation="slerp")[1], torch.zeros_like(A))
