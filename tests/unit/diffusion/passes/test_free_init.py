"""FreeInit against the reference's vectors (see tests/golden), and as a loop around the sampling."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.passes.free_init import FreeInit
from animatediff.diffusion.passes.repeated_sampling import low_pass_filter, mix_frequencies, sample_with_free_init
from animatediff.diffusion.schedule import add_noise, compute_alphas_cumprod

GOLDEN = Path(__file__).parents[3] / "golden" / "free_init.safetensors"
TENSORS = load_file(GOLDEN)
TOLERANCE = 2e-6
ALPHAS = compute_alphas_cumprod(NoiseSchedule())


def settings_of_file():
    """The settings by the names that the file's tensors have."""
    with safe_open(GOLDEN, "pt") as file:
        told = json.loads(file.metadata()["filters"])
    found = {
        name: FreeInit(
            filter=one["method"],
            order=one["order"],
            spatial=one["spatial_stop_frequency"],
            temporal=one["temporal_stop_frequency"],
        )
        for name, one in told.items()
    }
    return found | {"box": FreeInit(filter="box")}


SETTINGS = settings_of_file()


def difference(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return float((found - expected).abs().max())


def test_noise_of_the_last_timestep():
    noised = add_noise(TENSORS["latents"], TENSORS["initial_noise"], torch.tensor([999, 999]), ALPHAS)
    assert difference(noised, TENSORS["noised"]) < TOLERANCE


@pytest.mark.parametrize("name", SETTINGS)
def test_filters(name):
    shape = TENSORS["latents"].shape[2:]
    assert difference(low_pass_filter(SETTINGS[name], *shape), TENSORS[f"filter_{name}"]) < TOLERANCE


@pytest.mark.parametrize("name", SETTINGS)
def test_mixed_noise(name):
    low_pass = low_pass_filter(SETTINGS[name], *TENSORS["latents"].shape[2:])
    mixed = mix_frequencies(TENSORS["noised"], TENSORS["new_noise"], low_pass)
    assert difference(mixed, TENSORS[f"mixed_{name}"]) < TOLERANCE


@pytest.mark.parametrize("name", SETTINGS)
def test_the_second_time_begins_with_the_references_noise(name):
    noises = iter([TENSORS["initial_noise"], TENSORS["new_noise"]])
    begun_with = []

    def denoise(noise, steps):
        begun_with.append(noise)
        return TENSORS["latents"]

    settings = SETTINGS[name].model_copy(update={"iterations": 2})
    sample_with_free_init(settings, denoise, lambda: next(noises), num_inference_steps=5, alphas_cumprod=ALPHAS)
    assert len(begun_with) == 2
    assert difference(begun_with[1], TENSORS[f"mixed_{name}"]) < TOLERANCE


@pytest.mark.parametrize("shape", [(16, 8, 6), (7, 5, 3), (1, 9, 9), (2, 1, 1)])
@pytest.mark.parametrize("name", ["butterworth", "gaussian", "ideal", "box"])
def test_a_stop_frequency_of_zero_keeps_nothing_whatever_the_size(name, shape):
    for stops in ({"spatial": 0.0}, {"temporal": 0.0}):
        low_pass = low_pass_filter(FreeInit(filter=name, **stops), *shape)
        assert not low_pass.any()
        low, high = torch.randn(2, 1, 4, *shape, generator=torch.Generator().manual_seed(0)).unbind()
        assert difference(mix_frequencies(low, high, low_pass), high) < TOLERANCE


@pytest.mark.parametrize("shape", [(16, 8, 6), (7, 5, 3), (1, 9, 9)])
def test_a_filter_that_passes_all_keeps_all(shape):
    low, high = torch.randn(2, 1, 4, *shape, generator=torch.Generator().manual_seed(0)).unbind()
    assert difference(mix_frequencies(low, high, torch.ones(shape)), low) < TOLERANCE


@pytest.mark.parametrize("name", ["butterworth", "gaussian", "ideal", "box"])
def test_the_mean_is_kept_and_the_highest_frequency_is_not(name):
    for shape in ((16, 8, 6), (15, 9, 7)):
        low_pass = low_pass_filter(FreeInit(filter=name, spatial=0.5, temporal=0.5), *shape)
        assert low_pass[shape[0] // 2, shape[1] // 2, shape[2] // 2] > 0.9
        assert low_pass[0, 0, 0] < 0.01


def calls(settings, steps):
    found = []

    def denoise(noise, num):
        found.append((noise, num))
        return 0.5 * noise

    generator = torch.Generator().manual_seed(0)
    latents = sample_with_free_init(
        settings,
        denoise,
        lambda: torch.randn(1, 4, 8, 4, 4, generator=generator),
        num_inference_steps=steps,
        alphas_cumprod=ALPHAS,
    )
    assert torch.equal(latents, 0.5 * found[-1][0])
    return found


def test_a_clip_is_sampled_so_often_and_fast_sampling_takes_fewer_steps_at_first():
    assert [num for _, num in calls(FreeInit(), 25)] == [25, 25, 25]
    assert [num for _, num in calls(FreeInit(fast=True), 25)] == [8, 16, 25]
    assert [num for _, num in calls(FreeInit(fast=True, iterations=4), 2)] == [1, 1, 1, 2]
    assert [num for _, num in calls(FreeInit(iterations=1), 25)] == [25]


def test_each_time_begins_with_other_noise_of_the_same_variance():
    noises = [noise for noise, _ in calls(FreeInit(iterations=4), 2)]
    for noise in noises[1:]:
        assert not torch.allclose(noise, noises[0])
        assert 0.8 < noise.std() < 1.2
