"""From noise to latents: the denoising loop over clips of any length, with classifier-free guidance."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
from animatediff.diffusion.context import Context, context_windows
from animatediff.diffusion.passes.start import Start
from animatediff.diffusion.samplers import Sampler, Scheduler


@torch.no_grad()
def sample(
    unet: NoisePredictor,
    sampler: Sampler,
    conditioning: Conditioning,
    noise: Tensor,
    *,
    num_inference_steps: int,
    guidance_scale: float,
    guidance_rescale: float = 0.0,
    start: Start | None = None,
    generators: Sequence[torch.Generator] | None = None,
    context: Context | None = None,
    loop: bool = False,
    max_batch: int | None = None,
) -> Tensor:
    """Denoise clips.

    Beyond some tensors of the latents' size, memory is taken by one UNet call at a time. Between the first step and the
    last, a GPU is waited for only where a sampler draws noise, which comes from the CPU.

    Args:
        unet: predicts in the conditioning's dtype.
        sampler: for the noise schedule that the UNet was trained with; one will do for any number of calls.
        conditioning: of the clips, on the UNet's device; with guidance, its negative branch too.
        noise: (b c f h w), standard normal; for long clips, `initial_noise`.
        num_inference_steps: steps from noise to latents, at most the schedule's timesteps.
        guidance_scale: weight of the positive prediction's difference from the negative one; at 1 and below there is
            no guidance, and the negative branch is not computed.
        guidance_rescale: share in [0, 1], as in `classifier_free_guidance`.
        start: clips of the noise's shape to begin from, by the last steps alone; default: noise, by all steps.
        generators: one a clip, on the CPU, for a sampler that draws noise at its steps (Euler a, LCM): a clip's noise
            is its own, whatever it shares the batch with.
        context: windows of frames that the UNet sees at a time; default: all frames at once.
        loop: whether the last frame goes over into the first.
        max_batch: most windows of clips in a UNet call, guided ones being two rows each; default: all of a step.

    Returns:
        (b c f h w) float32 latents, multiplied by the VAE's scaling factor.

    Raises:
        UserError: more steps than the schedule has timesteps.
        ValueError: no generators, or not one a clip, for a sampler that draws noise; or guidance without a negative
            branch.
    """
    first_step = start.first_step(num_inference_steps) if start else 0
    scheduler = sampler.begin(num_inference_steps, first_step)
    draws = {"generator": _checked_generators(generators, len(noise))} if sampler.adds_noise else {}
    is_guided = guidance_scale > 1
    guidance_branches = conditioning.guidance_branches(is_guided=is_guided)
    steps = scheduler.timesteps[first_step:]
    # The latents stay in float32: half precision would round away part of each of the many small steps.
    latents = _first_latents(scheduler, noise.float(), start, steps)
    if not len(steps):
        return latents
    # What the steps look up goes to the device before them: each copy waits for all that the device was given.
    timesteps = steps.to(noise.device)
    progress = [step / len(steps) for step in range(len(steps))]
    windows = _on_device([context_windows(noise.shape[2], context, loop, done) for done in progress], noise.device)
    for step, timestep in enumerate(steps):
        model_input = scheduler.scale_model_input(latents, timestep)
        branches = [branch.at(step, len(steps)) for branch in guidance_branches]
        predictions = _predict(unet, model_input, timesteps[step], branches, windows[step], max_batch)
        prediction = predictions[-1]
        if is_guided:
            prediction = classifier_free_guidance(predictions[0], prediction, guidance_scale, guidance_rescale)
        latents = scheduler.step(prediction, timestep, latents, **draws).prev_sample
    return latents


def classifier_free_guidance(
    negative: Tensor, positive: Tensor, guidance_scale: float, guidance_rescale: float = 0.0
) -> Tensor:
    """Go from the negative prediction past the positive one; 1 is the positive one.

    Args:
        negative: (b c f h w).
        positive: the same shape.
        guidance_scale: weight of their difference; 0 is the negative prediction.
        guidance_rescale: share in [0, 1] of the result that is brought back to the positive prediction's standard
            deviation, a clip's being its own (Lin et al., arXiv 2305.08891, section 3.4).
    """
    guided = negative + guidance_scale * (positive - negative)
    if guidance_rescale == 0:
        return guided
    wanted, found = (clips.std(dim=(1, 2, 3, 4), keepdim=True) for clips in (positive, guided))
    return guided * (1 + guidance_rescale * (wanted / found - 1))


def _first_latents(scheduler: Scheduler, noise: Tensor, start: Start | None, steps: Tensor) -> Tensor:
    """Return what the first of the steps begins with, (b c f h w) float32 on the noise's device."""
    if start is None:
        return noise * scheduler.init_noise_sigma
    clean = start.latents.to(noise)
    return scheduler.add_noise(clean, noise, steps[:1].expand(len(noise))) if len(steps) else clean


def window_weights(window_frames: Sequence[Sequence[int]]) -> Tensor:
    """Return how much of a frame's prediction each window gives: (windows length) float32, in all 1 a frame.

    A window's share falls towards its ends, where the motion module sees least of what is around a frame.
    """
    frames = torch.tensor(window_frames)
    length = frames.shape[1]
    weights = (torch.arange(length) + 1.0).minimum(length - torch.arange(length)).expand(len(window_frames), length)
    total = torch.zeros(int(frames.max()) + 1).index_add_(0, frames.flatten(), weights.flatten())
    return weights / total[frames]


class _Windows(NamedTuple):
    """The windows of one step."""

    frames: list[list[int]]
    """Of each window, by index."""
    indices: Tensor
    """The same on the device, (windows length)."""
    weights: Tensor
    """Of each window's predictions, (windows length) float32."""


def _on_device(steps: Sequence[list[list[int]]], device: torch.device) -> list[_Windows]:
    """Return the windows of each step, in as many copies to the device as one step's take."""
    indices = torch.tensor(steps).to(device)
    weights = torch.stack([window_weights(frames) for frames in steps]).to(device)
    return [_Windows(*step) for step in zip(steps, indices, weights, strict=True)]


def _predict(
    unet: NoisePredictor,
    latents: Tensor,
    timestep: Tensor,
    guidance_branches: Sequence[Conditioning],
    windows: _Windows,
    max_batch: int | None,
) -> Tensor:
    """Return the predictions for whole clips, put together from those for their windows.

    Args:
        unet: as in `sample`.
        latents: (b c f h w), the UNet's input.
        timestep: of all clips.
        guidance_branches: r conditionings of the clips, for each of which they are predicted.
        windows: all are of one length.
        max_batch: as in `sample`.

    Returns:
        (r b c f h w) float32.
    """
    pairs = list(itertools.product(range(len(latents)), range(len(windows.frames))))
    size = max_batch or len(pairs)
    total = latents.new_zeros(len(guidance_branches), *latents.shape)
    chunks = [pairs[i : i + size] for i in range(0, len(pairs), size)]
    for chunk, branches in itertools.product(chunks, _alike(guidance_branches)):
        conditioning = Conditioning.cat(
            [
                guidance_branches[branch].rows([clip]).frames(windows.frames[window])
                for branch in branches
                for clip, window in chunk
            ]
        )
        clips = torch.stack([latents[clip].index_select(1, windows.indices[window]) for clip, window in chunk])
        rows = clips.to(conditioning.dtype).repeat(len(branches), 1, 1, 1, 1)
        predictions = unet(rows, timestep, conditioning).float().unflatten(0, (len(branches), len(chunk)))
        for (place, branch), (i, (clip, window)) in itertools.product(enumerate(branches), enumerate(chunk)):
            part = predictions[place, i] * windows.weights[window].reshape(-1, 1, 1)
            total[branch, clip].index_add_(1, windows.indices[window], part)
    return total


def _alike(guidance_branches: Sequence[Conditioning]) -> list[list[int]]:
    """Group the numbers of the branches that fit into one call of the UNet."""
    groups: dict[object, list[int]] = defaultdict(list)
    for number, branch in enumerate(guidance_branches):
        groups[branch.batch_key].append(number)
    return list(groups.values())


def _checked_generators(generators: Sequence[torch.Generator] | None, num_clips: int) -> list[torch.Generator]:
    if generators is None or len(generators) != num_clips:
        given = "none" if generators is None else len(generators)
        raise ValueError(f"a sampler that draws noise needs a generator a clip: {num_clips}, got {given}")
    return list(generators)
