"""Samplers: the ways from noise to latents that diffusers' schedulers know."""

import copy
from typing import Any, Literal, TypeAlias

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.schedule import ddim_scheduler, scheduler_config
from animatediff.errors import UserError

Sampler = Literal["ddim", "euler", "euler_a", "dpmpp_2m", "lcm"]
"""By the field's names: DDIM, Euler, Euler ancestral, DPM++ 2M, and LCM for consistency-distilled modules."""

TimestepSpacing = Literal["leading", "trailing", "linspace"]
"""diffusers' names (Lin et al., arXiv 2305.08891, table 2)."""

Scheduler: TypeAlias = (
    DDIMScheduler
    | EulerDiscreteScheduler
    | EulerAncestralDiscreteScheduler
    | DPMSolverMultistepScheduler
    | LCMScheduler
)

_SPACED: dict[str, Any] = {
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}
# AnimateLCM was distilled, and is sampled by its authors, on every tenth of 1000 timesteps.
_LCM_TIMESTEPS = 100


def make_scheduler(
    sampler: Sampler, schedule: NoiseSchedule, timestep_spacing: TimestepSpacing | None = None
) -> Scheduler:
    """Return a diffusers scheduler for the noise schedule that the motion module was trained with.

    Few-step motion modules need the one that they were distilled for: Lightning `euler` with `trailing`, AnimateLCM
    `lcm`.

    Args:
        sampler: its name.
        schedule: the motion module's.
        timestep_spacing: default: `leading` for DDIM, as the reference has it; `linspace`, the other tools' way, for
            Euler, Euler a and DPM++ 2M; `trailing` for all of them with zero terminal SNR, as Lin et al. have it.
            `leading` begins nearly a step below the last timestep (of 1000, 25 steps at 961), and far below it where
            the steps do not divide them, as it rounds down (334 at 667). A single step begins at the last timestep,
            whatever the spacing.

    Raises:
        UserError: a spacing that the sampler or the schedule cannot have.
    """
    if sampler == "lcm":
        return _lcm_scheduler(schedule, timestep_spacing)
    if schedule.zero_terminal_snr and timestep_spacing == "leading":
        raise UserError(
            "a noise schedule with zero_terminal_snr must be sampled from its last timestep on, which timestep_spacing "
            "leading leaves out: set trailing, or leave it away"
        )
    if sampler == "ddim":
        scheduler = ddim_scheduler(schedule)
        if timestep_spacing is not None:
            scheduler.register_to_config(timestep_spacing=timestep_spacing)
        return scheduler
    spacing = timestep_spacing or ("trailing" if schedule.zero_terminal_snr else "linspace")
    # As in Stable Diffusion's configs; DPM++'s own leading spacing leaves out timestep 0 already.
    offset = 0 if sampler == "dpmpp_2m" else 1
    return _SPACED[sampler](**scheduler_config(schedule), steps_offset=offset, timestep_spacing=spacing)


def _lcm_scheduler(schedule: NoiseSchedule, timestep_spacing: TimestepSpacing | None) -> LCMScheduler:
    if timestep_spacing is not None:
        raise UserError("the sampler lcm has timesteps of its own: leave timestep_spacing away")
    stride = -(-schedule.num_train_timesteps // _LCM_TIMESTEPS)
    return LCMScheduler(
        **scheduler_config(schedule),
        original_inference_steps=schedule.num_train_timesteps // stride,
        clip_sample=False,
        set_alpha_to_one=True,
    )


def adds_noise(scheduler: Scheduler) -> bool:
    """Whether the sampler draws noise at its steps."""
    return isinstance(scheduler, EulerAncestralDiscreteScheduler | LCMScheduler)


def begin(scheduler: Scheduler, num_inference_steps: int, device: torch.device) -> Scheduler:
    """Return a copy of the scheduler at its first step; what a scheduler remembers of one clip is not for the next.

    Raises:
        UserError: more steps than the schedule has timesteps.
    """
    scheduler = copy.deepcopy(scheduler)
    config = scheduler.config
    most = config.original_inference_steps if isinstance(scheduler, LCMScheduler) else config.num_train_timesteps
    if num_inference_steps > most:
        name = "the sampler lcm" if isinstance(scheduler, LCMScheduler) else "the noise schedule"
        raise UserError(f"{name} has {most} timesteps: num_inference_steps {num_inference_steps} must not be more")
    # All timesteps: leading would begin at one too many, and DPM++'s linspace has some twice. One step is from noise
    # alone; leading and linspace would take it where next to none is left, DPM++'s leading in the middle.
    if num_inference_steps in (1, config.num_train_timesteps):
        scheduler.register_to_config(timestep_spacing="trailing")
    if isinstance(scheduler, DDIMScheduler) and not _is_even(scheduler, num_inference_steps):
        # diffusers' DDIM goes down by a fixed number of timesteps, whatever the next one is, and so leaves noise
        # behind. Without noise of its own DDIM is Euler's method, whose scheduler does go to the next one.
        scheduler = EulerDiscreteScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(num_inference_steps, device=device)
    _drop_surplus(scheduler, num_inference_steps)
    return scheduler


def _is_even(scheduler: DDIMScheduler, num_inference_steps: int) -> bool:
    """Whether all steps are of one length."""
    config = scheduler.config
    return config.timestep_spacing == "leading" or (
        config.timestep_spacing == "trailing" and config.num_train_timesteps % num_inference_steps == 0
    )


def _drop_surplus(scheduler: Any, num_inference_steps: int) -> None:
    """For some counts (61 of 1000) diffusers' trailing spacing appends a timestep of -1, which would undo the clip."""
    if len(scheduler.timesteps) == num_inference_steps:
        return
    scheduler.timesteps = scheduler.timesteps[:num_inference_steps]
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.cat([scheduler.sigmas[:num_inference_steps], scheduler.sigmas[-1:]])
