"""Samplers: the ways from noise to latents, one class each around a scheduler of diffusers.

To add one, write its class and name it in `SAMPLERS`.
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError

TimestepSpacing = Literal["leading", "trailing", "linspace"]
"""diffusers' names (Lin et al., arXiv 2305.08891, table 2)."""

Scheduler: TypeAlias = Any
"""A scheduler of diffusers; they have no class in common."""


class Sampler:
    """A sampler for the noise schedule that the motion module was trained with.

    Args:
        schedule: the motion module's.
        timestep_spacing: default: the sampler's own; `trailing` with zero terminal SNR, as Lin et al. have it.
            `leading` begins nearly a step below the last timestep (of 1000, 25 steps at 961), and far below it where
            the steps do not divide them, as it rounds down (334 at 667). A single step begins at the last timestep,
            whatever the spacing.

    Raises:
        UserError: a spacing that the sampler or the schedule cannot have.
    """

    scheduler_class: ClassVar[str]
    """Its name in diffusers."""
    adds_noise: ClassVar[bool] = False
    """Whether it draws noise at its steps."""
    default_spacing: ClassVar[TimestepSpacing] = "linspace"  # other tools' way for all but DDIM
    options: ClassVar[Mapping[str, Any]] = {"steps_offset": 1}  # as in Stable Diffusion's configs

    def __init__(self, schedule: NoiseSchedule, timestep_spacing: TimestepSpacing | None = None) -> None:
        options = self._options(schedule, timestep_spacing)
        self.scheduler: Scheduler = _scheduler_class(self.scheduler_class)(**_scheduler_config(schedule), **options)

    def _options(self, schedule: NoiseSchedule, timestep_spacing: TimestepSpacing | None) -> dict[str, Any]:
        """Return what the scheduler is told beside the schedule."""
        if schedule.zero_terminal_snr and timestep_spacing == "leading":
            raise UserError(
                "a noise schedule with zero_terminal_snr must be sampled from its last timestep on, which "
                "timestep_spacing leading leaves out: set trailing, or leave it away"
            )
        spacing = timestep_spacing or ("trailing" if schedule.zero_terminal_snr else self.default_spacing)
        return {**self.options, "timestep_spacing": spacing}

    def begin(self, num_inference_steps: int, first_step: int = 0) -> Scheduler:
        """Return a copy of the scheduler at its first step; what it remembers of one clip is not for the next.

        Its timesteps and tables are on the CPU, wherever the latents are: a lookup by a GPU's number waits for the GPU.

        Args:
            num_inference_steps: steps from noise to latents; it has a timestep for each.
            first_step: the step that is taken first, counted from 0.

        Raises:
            UserError: more steps than there are timesteps.
        """
        most, whose = self._most_steps()
        if num_inference_steps > most:
            raise UserError(f"{whose} has {most} timesteps: num_inference_steps {num_inference_steps} must not be more")
        scheduler = copy.deepcopy(self.scheduler)
        # All timesteps: leading would begin at one too many, and DPM++'s linspace has some twice. One step is from
        # noise alone; leading and linspace would take it where next to none is left, DPM++'s leading in the middle.
        if num_inference_steps in (1, scheduler.config.num_train_timesteps):
            scheduler.register_to_config(timestep_spacing="trailing")
        scheduler = self._scheduler_for(scheduler, num_inference_steps)
        scheduler.set_timesteps(num_inference_steps, device="cpu")
        _drop_surplus(scheduler, num_inference_steps)
        if hasattr(scheduler, "set_begin_index"):  # DDIM's looks everything up by the timestep
            scheduler.set_begin_index(first_step)
        return scheduler

    def _most_steps(self) -> tuple[int, str]:
        """Return the number of steps that there can be, and what has so many timesteps."""
        return self.scheduler.config.num_train_timesteps, "the noise schedule"

    def _scheduler_for(self, scheduler: Scheduler, num_inference_steps: int) -> Scheduler:
        """Return the scheduler that takes so many steps."""
        return scheduler


class Ddim(Sampler):
    """DDIM, whose options are the reference's; its configs leave `set_alpha_to_one` at diffusers' default.

    With zero terminal SNR the reference's spacing would begin below the last timestep, where the schedule still expects
    some signal, which pure noise lacks.
    """

    scheduler_class = "DDIMScheduler"
    default_spacing = "leading"
    options: ClassVar = {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": True}

    def _scheduler_for(self, scheduler: Scheduler, num_inference_steps: int) -> Scheduler:
        config = scheduler.config
        is_even = config.timestep_spacing == "leading" or (
            config.timestep_spacing == "trailing" and config.num_train_timesteps % num_inference_steps == 0
        )
        # diffusers' DDIM goes down by a fixed number of timesteps, whatever the next one is, and so leaves noise
        # behind. Without noise of its own DDIM is Euler's method, whose scheduler does go to the next one.
        return scheduler if is_even else _scheduler_class(Euler.scheduler_class).from_config(config)


class Euler(Sampler):
    """Euler's method."""

    scheduler_class = "EulerDiscreteScheduler"


class EulerAncestral(Sampler):
    """Euler's method with fresh noise at each step."""

    scheduler_class = "EulerAncestralDiscreteScheduler"
    adds_noise = True


class DpmPlusPlus2M(Sampler):
    """DPM-Solver++ of the second order, from the step before; its leading spacing leaves out timestep 0 already."""

    scheduler_class = "DPMSolverMultistepScheduler"
    options: ClassVar = {"steps_offset": 0}


class Lcm(Sampler):
    """LCM, for consistency-distilled motion modules; it has timesteps of its own.

    AnimateLCM was distilled, and is sampled by its authors, on every tenth of 1000 timesteps.
    """

    scheduler_class = "LCMScheduler"
    adds_noise = True
    options: ClassVar = {"clip_sample": False, "set_alpha_to_one": True}
    _num_timesteps = 100

    def _options(self, schedule: NoiseSchedule, timestep_spacing: TimestepSpacing | None) -> dict[str, Any]:
        if timestep_spacing is not None:
            raise UserError("the sampler lcm has timesteps of its own: leave timestep_spacing away")
        stride = -(-schedule.num_train_timesteps // self._num_timesteps)
        return {**self.options, "original_inference_steps": schedule.num_train_timesteps // stride}

    def _most_steps(self) -> tuple[int, str]:
        return self.scheduler.config.original_inference_steps, "the sampler lcm"


SAMPLERS: Mapping[str, type[Sampler]] = {
    "ddim": Ddim,
    "euler": Euler,
    "euler_a": EulerAncestral,
    "dpmpp_2m": DpmPlusPlus2M,
    "lcm": Lcm,
}
"""By the field's names. Few-step motion modules need the one that they were distilled for: Lightning `euler` with the
spacing `trailing`, AnimateLCM `lcm`."""

if TYPE_CHECKING:
    SamplerName: TypeAlias = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]
"""A name of `SAMPLERS`, in configs."""


def _scheduler_class(name: str) -> Any:
    # Not at the top: configs that name a sampler are read by processes that never sample, and diffusers takes seconds.
    import diffusers

    return getattr(diffusers, name)


def _scheduler_config(schedule: NoiseSchedule) -> dict[str, Any]:
    """Return the schedule as arguments of diffusers' schedulers, by their names."""
    return {
        "num_train_timesteps": schedule.num_train_timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.beta_schedule,
        "prediction_type": schedule.prediction_type,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }


def _drop_surplus(scheduler: Scheduler, num_inference_steps: int) -> None:
    """For some counts (61 of 1000) diffusers' trailing spacing appends a timestep of -1, which would undo the clip."""
    if len(scheduler.timesteps) == num_inference_steps:
        return
    scheduler.timesteps = scheduler.timesteps[:num_inference_steps]
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas[[*range(num_inference_steps), -1]]
