"""FreeInit's sampling: several times, each from noise that keeps the low frequencies of the time before."""

from collections.abc import Callable

import torch
from torch import Tensor

from animatediff.diffusion.passes.free_init import FreeInit
from animatediff.diffusion.schedule import add_noise


def sample_with_free_init(
    settings: FreeInit,
    denoise: Callable[[Tensor, int], Tensor],
    draw_noise: Callable[[], Tensor],
    *,
    num_inference_steps: int,
    alphas_cumprod: Tensor,
) -> Tensor:
    """Sample clips several times, each time from noise that keeps the low frequencies of the time before.

    Args:
        settings: how often, and the filter.
        denoise: (b c f h w) noise and a number of steps to latents, as `sampling.sample` makes them.
        draw_noise: (b c f h w) standard normal on the latents' device, other noise at each call.
        num_inference_steps: steps of a time.
        alphas_cumprod: (timesteps) of the noise schedule.

    Returns:
        (b c f h w) latents of the last time.
    """
    noise = draw_noise()
    latents = denoise(noise, settings.num_steps(0, num_inference_steps))
    low_pass = low_pass_filter(settings, *noise.shape[2:]).to(noise.device)
    # What a clip is at the last timestep of training, whatever the sampler's first one is; with the first noise always.
    last = torch.full((len(noise),), len(alphas_cumprod) - 1)
    for iteration in range(1, settings.iterations):
        noised = add_noise(latents, noise, last, alphas_cumprod.to(noise.device))
        mixed = mix_frequencies(noised, draw_noise(), low_pass)
        latents = denoise(mixed, settings.num_steps(iteration, num_inference_steps))
    return latents


def mix_frequencies(low: Tensor, high: Tensor, low_pass: Tensor) -> Tensor:
    """Return the low frequencies of one tensor with the high ones of another.

    Args:
        low: (... f h w).
        high: the same shape.
        low_pass: (f h w), see `low_pass_filter`.
    """
    axes = (-3, -2, -1)
    low_spectrum, high_spectrum = (torch.fft.fftshift(torch.fft.fftn(x, dim=axes), dim=axes) for x in (low, high))
    mixed = low_spectrum * low_pass + high_spectrum * (1 - low_pass)
    return torch.fft.ifftn(torch.fft.ifftshift(mixed, dim=axes), dim=axes).real


def low_pass_filter(settings: FreeInit, num_frames: int, height: int, width: int) -> Tensor:
    """Return what share of each frequency is kept: (f h w) float32 in [0, 1], the frequency 0 in the middle.

    The formulas are those of the authors' code, `box` that of ComfyUI-AnimateDiff-Evolved.
    """
    if not settings.spatial or not settings.temporal:
        return torch.zeros(num_frames, height, width)
    if settings.filter == "box":
        return _box(settings, num_frames, height, width)
    # From -1, the negative highest frequency, to 1; in units in which the bound over the frames is `spatial`, too.
    t, y, x = (2 * torch.arange(size) / size - 1 for size in (num_frames, height, width))
    t = settings.spatial / settings.temporal * t
    squared = t[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    if settings.filter == "butterworth":
        return 1 / (1 + (squared / settings.spatial**2) ** settings.order)
    if settings.filter == "gaussian":
        return torch.exp(-squared / (2 * settings.spatial**2))
    # A squared distance within a bound that is not: the authors' slip, which all have kept.
    return (squared <= 2 * settings.spatial).float()


def _box(settings: FreeInit, num_frames: int, height: int, width: int) -> Tensor:
    half_frames = round(num_frames // 2 * settings.temporal)
    half_side = round(height // 2 * settings.spatial)  # of both sides
    low_pass = torch.zeros(num_frames, height, width)
    low_pass[
        _around_middle(num_frames, half_frames), _around_middle(height, half_side), _around_middle(width, half_side)
    ] = 1
    return low_pass


def _around_middle(size: int, half: int) -> slice:
    return slice(max(0, size // 2 - half), size // 2 + half)
