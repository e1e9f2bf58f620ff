"""What the recipe distill may be told. Configs are read before torch is imported."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from animatediff.config import Config
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval

_Scale = Annotated[float, Field(ge=1, le=100)]


class SampledGuidance(Config):
    """Guidance of the last steps that is not folded into the result.

    The UNet is called twice in each of these steps, and what the captions of the training have no words for is kept, as
    what textual inversion adds. Guidance needs the empty caption, which `train.caption_dropout` teaches.
    """

    start: float = Field(0.5, gt=0, lt=1)
    """Share of the result's steps, from noise on, before which the guidance is folded into it."""
    guidance_scale: float = Field(3.0, gt=1, le=100)
    """That the result is sampled with behind them. Less than the teacher's: its effect grows with the length of the
    steps."""

    @property
    def interval(self) -> GuidanceInterval:
        """The steps that the result is sampled with guidance in."""
        return GuidanceInterval(start=self.start)


class DistillConfig(Config):
    """How a motion module is distilled to few steps with little guidance or none, and so how its result is sampled."""

    sampler: Literal["lcm", "euler"] = "euler"
    """What the result is sampled with. `lcm`: every step guesses the clip and adds noise to it, as AnimateLCM.
    `euler`, with `timestep_spacing: trailing`: every step goes to the next timestep, which asks less of one
    prediction, and adds no noise."""
    num_inference_steps: int = Field(8, ge=1, le=100)
    """Steps that the result is sampled with: 4 to 8."""
    guidance_scale: _Scale | tuple[_Scale, _Scale] = 7.5
    """Of the teacher, folded into the result: one, or the lowest and the highest of a range, of which every clip draws
    its own."""
    sampled_guidance: SampledGuidance | None = None
    """Guidance that is left out of the result, which is then sampled with it; default: none, all is folded into it. For
    sampler `euler`, whose steps are learned each by itself."""
    teacher_steps: int = Field(48, ge=1, le=1000)
    """Steps of the teacher's DDIM from noise to latents. With `euler` a multiple of `num_inference_steps`."""
    huber_c: float = Field(0.001, gt=0)
    """Where the loss of a difference d, sqrt(d^2 + c^2) - c, goes over from squares to absolute values."""

    @property
    def guidance_range(self) -> tuple[float, float]:
        """The lowest and the highest guidance scale."""
        return self.guidance_scale if isinstance(self.guidance_scale, tuple) else (self.guidance_scale,) * 2

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        low, high = self.guidance_range
        if low > high:
            raise ValueError(f"guidance_scale {low:g} to {high:g} is no range: name the lowest first")
        return self

    @model_validator(mode="after")
    def _leaves_guidance_out_of_steps(self) -> Self:
        if self.sampled_guidance is not None and self.sampler != "euler":
            raise ValueError("sampled_guidance is for sampler euler: each guess of lcm is of the whole clip")
        return self

    @model_validator(mode="after")
    def _leaves_guidance_out_of_a_step(self) -> Self:
        guidance, last = self.sampled_guidance, self.num_inference_steps - 1
        if guidance is not None and not guidance.interval.is_on(last, self.num_inference_steps):
            # Rounded down, and the start in full: else the one that is told may itself be refused, and the
            # one that is refused may read like it.
            most = last * 1000 // self.num_inference_steps / 1000
            raise ValueError(
                f"sampled_guidance.start {guidance.start!r} lies behind the start of the last of "
                f"{self.num_inference_steps} steps, so that none would be guided: set at most {most:g}"
                if last
                else "sampled_guidance needs 2 steps or more: the only one would not be guided"
            )
        return self
