"""From noise to latents: the denoising loop over clips of any length, with classifier-free guidance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
from animatediff.diffusion.context import Context, context_windows, moves_window
from animatediff.diffusion.passes.start import Start
from animatediff.diffusion.samplers import Sampler, Scheduler
from animatediff.diffusion.steps.deep_cache import MOVING_WINDOW, DeepCache
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.diffusion.steps.known_frames import KnownFrames
from animatediff.diffusion.steps.step_plan import Branch, plan_steps
from animatediff.diffusion.steps.windowed_prediction import WindowedPredictor, windows_on_device
from animatediff.errors import UserError


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
    guidance_interval: GuidanceInterval | None = None,
    guidance_after_every: int | None = None,
    guidance_every: int = 1,
    deep_cache: DeepCache | None = None,
    start: Start | None = None,
    generators: Sequence[torch.Generator] | None = None,
    context: Context | None = None,
    loop: bool = False,
    max_batch: int | None = None,
) -> Tensor:
    """Denoise clips.

    Beyond some tensors of the latents' size, and the deep features of all clips where they are kept, memory is taken by
    one UNet call at a time. Between the first step and the
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
        guidance_interval: the steps with guidance, of those that are taken; default: all.
        guidance_after_every: steps behind that interval of which one, the last, is guided as well; default: none is.
        guidance_every: guided steps of which one computes the negative branch; the others take its difference from the
            positive one as the step before had it. It is computed anew where a control goes on or off.
        deep_cache: how the UNet's deep features are taken again from step to step; the UNet then takes `DeepFeatures`.
            They are computed anew where a control goes on or off.
        start: clips of the noise's shape to begin from, by the last steps alone; default: noise, by all steps.
        generators: one a clip, on the CPU, for a sampler that draws noise at its steps (Euler a, LCM): a clip's noise
            is its own, whatever it shares the batch with.
        context: windows of frames that the UNet sees at a time; default: all frames at once.
        loop: whether the last frame goes over into the first.
        max_batch: most windows of clips in a UNet call, guided ones being two rows each; default: all of a step.

    Returns:
        (b c f h w) float32 latents, multiplied by the VAE's scaling factor.

    Raises:
        UserError: more steps than the schedule has timesteps, or a deep cache of a loop whose window moves.
        ValueError: no generators, or not one a clip, for a sampler that draws noise; or guidance without a negative
            branch.
    """
    if deep_cache and moves_window(noise.shape[2], context, loop):
        raise UserError(MOVING_WINDOW)
    first_step = start.first_step(num_inference_steps) if start else 0
    scheduler = sampler.begin(num_inference_steps, first_step)
    draws = {"generator": _checked_generators(generators, len(noise))} if sampler.adds_noise else {}
    is_guided = guidance_scale > 1
    # The negative one is the first of two.
    names: tuple[Branch, ...] = ("negative", "positive") if is_guided else ("positive",)
    of_branches = dict(zip(names, conditioning.guidance_branches(is_guided=is_guided), strict=True))
    steps = scheduler.timesteps[first_step:]
    # The latents stay in float32: half precision would round away part of each of the many small steps.
    latents = _first_latents(scheduler, noise.float(), start, steps)
    known = None if conditioning.known is None else KnownFrames(conditioning.known, noise.float())
    if not len(steps):
        return known.put_clean_into(latents) if known else latents
    plan = plan_steps(
        len(steps),
        is_guided=is_guided,
        guidance_interval=guidance_interval,
        guidance_after_every=guidance_after_every,
        guidance_every=guidance_every,
        deep_every=deep_cache.every if deep_cache else 1,
        renewed=conditioning.changes(len(steps)),
    )
    # What the steps look up goes to the device before them: each copy waits for all that the device was given.
    timesteps = steps.to(noise.device)
    progress = [step / len(steps) for step in range(len(steps))]
    windows = windows_on_device(
        [context_windows(noise.shape[2], context, loop, done) for done in progress], noise.device
    )
    predictor = WindowedPredictor(unet, deep_cache.layers if deep_cache else None, max_batch)
    of_both: dict[Branch, Tensor] = {}
    for step, timestep in enumerate(steps):
        if known:
            latents = known.put_into(latents, scheduler, timestep)
        model_input = scheduler.scale_model_input(latents, timestep)
        branches = {branch: of_branches[branch].at(step, len(steps)) for branch in plan[step].computed}
        predictions = predictor.predict(
            model_input, timesteps[step], branches, windows[step], shallow=plan[step].shallow
        )
        prediction = predictions["positive"]
        if plan[step].is_guided:
            if "negative" in predictions:
                of_both = predictions
            else:
                predictions["negative"] = prediction + (of_both["negative"] - of_both["positive"])
            prediction = classifier_free_guidance(predictions["negative"], prediction, guidance_scale, guidance_rescale)
        latents = scheduler.step(prediction, timestep, latents, **draws).prev_sample
    return known.put_clean_into(latents) if known else latents


def classifier_free_guidance(
    negative: Tensor, positive: Tensor, guidance_scale: float | Tensor, guidance_rescale: float = 0.0
) -> Tensor:
    """Go from the negative prediction past the positive one; 1 is the positive one.

    Args:
        negative: (b c f h w).
        positive: the same shape.
        guidance_scale: weight of their difference, or (b 1 1 1 1) one a clip; 0 is the negative prediction.
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


def _checked_generators(generators: Sequence[torch.Generator] | None, num_clips: int) -> list[torch.Generator]:
    if generators is None or len(generators) != num_clips:
        given = "none" if generators is None else len(generators)
        raise ValueError(f"a sampler that draws noise needs a generator a clip: {num_clips}, got {given}")
    return list(generators)
