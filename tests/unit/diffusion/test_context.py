"""Windows: what every choice of lengths must hold, and what fusing them does to predictions that are known."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context, context_windows
from animatediff.diffusion.initial_noise import initial_noise
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.steps.windowed_prediction import window_weights

contexts = st.integers(2, 24).flatmap(
    lambda length: st.builds(Context, length=st.just(length), overlap=st.integers(1, length - 1))
)
frames, turns = st.integers(1, 200), st.floats(0, 1, exclude_max=True)
TEXT = torch.ones(3, 1, 1)


@given(frames, contexts | st.none(), turns, st.booleans())
def test_windows_cover_every_frame_and_are_of_one_length(num_frames, context, progress, loop):
    found = context_windows(num_frames, context, loop, progress)
    assert {frame for window in found for frame in window} == set(range(num_frames))
    assert {len(window) for window in found} == {min(num_frames, context.length) if context else num_frames}
    for window in found:
        assert [(window[0] + i) % num_frames for i in range(len(window))] == window
        assert len(set(window)) == len(window)


@given(frames, contexts, turns)
def test_windows_of_a_clip_with_ends_keep_to_it(num_frames, context, progress):
    found = context_windows(num_frames, context, False, progress)
    assert found[0][0] == 0
    assert found[-1][-1] == num_frames - 1
    assert all(window == sorted(window) for window in found)
    for before, after in itertools.pairwise(found):
        assert before[0] < after[0] <= before[-1] + 1 - context.overlap


@given(frames, contexts, turns)
def test_windows_of_a_loop_overlap_around_its_end_too(num_frames, context, progress):
    found = context_windows(num_frames, context, True, progress)
    if len(found) == 1:
        assert num_frames <= context.length
    for before, after in zip(found, found[1:] + found[:1], strict=True):
        assert len(set(before) & set(after)) >= context.overlap or len(found) == 1


@given(frames, contexts, turns, st.booleans())
def test_there_are_no_more_windows_than_a_clip_needs_and_one(num_frames, context, progress, loop):
    needed = math.ceil(max(num_frames - (0 if loop else context.overlap), 1) / (context.length - context.overlap))
    assert len(context_windows(num_frames, context, loop, progress)) <= needed + 1


@given(frames, contexts | st.none(), turns, st.booleans())
def test_the_shares_of_a_frame_are_positive_and_one_in_all(num_frames, context, progress, loop):
    found = context_windows(num_frames, context, loop, progress)
    shares = window_weights(found)
    assert bool((shares > 0).all())
    total = torch.zeros(num_frames).index_add_(0, torch.tensor(found).flatten(), shares.flatten())
    torch.testing.assert_close(total, torch.ones(num_frames))
    assert len(found) > 1 or bool((shares == 1).all())


@given(frames, contexts, turns)
def test_only_a_loop_of_one_window_is_turned(num_frames, context, progress):
    assert context_windows(num_frames, context, False, progress) == context_windows(num_frames, context, False, 0.0)
    if num_frames > context.length:
        assert context_windows(num_frames, context, True, progress) == context_windows(num_frames, context, True, 0.0)


def test_a_clip_of_one_window_is_whole_and_a_loop_of_one_is_turned():
    for context in (None, Context(), Context(length=24)):
        assert context_windows(16, context, False, 0.4) == [list(range(16))]
    for num_steps in (16, 25, 40):
        begins = {context_windows(16, Context(), True, step / num_steps)[0][0] for step in range(num_steps)}
        assert begins == set(range(16))
    assert context_windows(6, None, True, 0.5) == [[3, 4, 5, 0, 1, 2]]


def elementwise(latents, timestep, conditioning):
    return torch.tanh(latents) * conditioning.text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)


def run(unet, noise, **changes):
    settings = {"num_inference_steps": 4, "guidance_scale": 2.0} | changes
    text = TEXT[: len(noise)]
    told = Conditioning(text * 0.9, negative=Conditioning(text * 0.7))
    return sample(unet, SAMPLERS["ddim"](NoiseSchedule()), told, noise, **settings)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(st.integers(1, 50), contexts, st.booleans(), st.integers(1, 7) | st.none())
def test_predictions_that_look_at_one_frame_do_not_feel_the_windows(num_frames, context, loop, max_batch):
    noise = normal(2, 2, num_frames, 2, 2)
    found = run(elementwise, noise, context=context, loop=loop, max_batch=max_batch)
    torch.testing.assert_close(found, run(elementwise, noise))


def mixing(latents, timestep, conditioning):
    """Looks at a window's frames together, each at its own place: as the motion module does."""
    places = torch.linspace(-1, 1, latents.shape[2]).reshape(-1, 1, 1)
    return elementwise(latents - latents.mean(dim=2, keepdim=True) + 0.1 * places, timestep, conditioning)


@settings(max_examples=30)
@given(st.integers(1, 50), contexts | st.none(), st.booleans(), st.integers(1, 7))
def test_chunks_and_neighbours_in_the_batch_change_nothing(num_frames, context, loop, max_batch):
    sizes, noise = [], normal(3, 2, num_frames, 2, 2)

    def unet(latents, timestep, conditioning):
        sizes.append(len(latents))
        return mixing(latents, timestep, conditioning)

    found = run(unet, noise, context=context, loop=loop, max_batch=max_batch)
    num_windows = 4 * len(context_windows(num_frames, context, loop, 0.0))
    assert max(sizes) <= 2 * max_batch
    assert sum(sizes) == 2 * 3 * num_windows
    for i in range(3):
        assert torch.equal(run(mixing, noise[[i]], context=context, loop=loop)[0], found[i])


def test_a_step_is_one_call_unless_it_is_split():
    sizes = []

    def unet(latents, timestep, conditioning):
        sizes.append(len(latents))
        return latents * 0.1

    run(unet, normal(3, 2, 40, 2, 2), context=Context(), num_inference_steps=1)
    assert sizes == [2 * 3 * 3]


def test_a_loop_knows_no_first_frame():
    """Turning the noise of a loop turns the clip, as far as windows that begin elsewhere allow."""
    noise = normal(1, 2, 12, 2, 2)
    context = Context(length=6, overlap=5)  # every frame begins a window, so that all turns are alike
    found = run(mixing, noise, context=context, loop=True)
    turned = run(mixing, noise.roll(5, dims=2), context=context, loop=True)
    torch.testing.assert_close(turned, found.roll(5, dims=2))


@given(st.integers(2, 40), st.booleans(), st.integers(0, 2**63 - 1))
def test_noise_of_a_clip_without_windows_is_torchs_own(num_frames, loop, seed):
    shape = (1, 2, num_frames, 2, 2)
    g, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
    noise = initial_noise(shape, g, None, loop)
    assert torch.equal(noise, torch.randn(shape, generator=theirs))
    assert torch.equal(g.get_state(), theirs.get_state())


@given(frames, contexts, st.booleans(), st.integers(0, 2**63 - 1))
def test_all_windows_begin_with_the_noise_of_the_first_in_another_order(num_frames, context, loop, seed):
    shape = (1, 2, num_frames, 2, 2)
    noise = initial_noise(shape, torch.Generator().manual_seed(seed), context, loop)
    first, *rest = context_windows(num_frames, context, loop, 0.0)
    alike = torch.randn(shape, generator=torch.Generator().manual_seed(seed))[:, :, first]
    assert torch.equal(noise[:, :, first], alike)
    known = {tuple(frame.flatten().tolist()) for frame in alike.unbind(2)}
    for window in rest:
        found = [tuple(frame.flatten().tolist()) for frame in noise[:, :, window].unbind(2)]
        assert set(found) <= known
        # Around a loop's end the first window's own frames come back as they are.
        assert loop or set(found) == known


def test_long_clips_do_not_repeat_their_noise_in_order():
    noise = initial_noise((1, 2, 200, 2, 2), torch.Generator().manual_seed(0), Context())
    assert torch.equal(noise, initial_noise((1, 2, 200, 2, 2), torch.Generator().manual_seed(0), Context()))
    assert not any(torch.equal(noise[:, :, i : i + 4], noise[:, :, i + 16 : i + 20]) for i in range(180))


def test_an_overlap_that_leaves_no_stride_is_refused():
    with pytest.raises(ValidationError, match="context.overlap 16 must be less than context.length 16"):
        Context(overlap=16)
