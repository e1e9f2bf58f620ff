"""Guidance in some of the denoising steps alone (Kynkäänniemi et al., arXiv 2404.07724)."""

from typing import Self

from pydantic import Field, model_validator

from animatediff.config import Config


class GuidanceInterval(Config):
    """Which of the denoising steps are guided: as shares of those that are taken, from noise on."""

    start: float = Field(0.0, ge=0, le=1)
    """Share of the denoising steps before which there is no guidance."""
    end: float = Field(1.0, ge=0, le=1)
    """Share of the denoising steps after which there is none."""

    def __str__(self) -> str:
        """Return the interval as YAML has it, in full: a rounded share may be another step's."""
        return f"{{start: {self.start!r}, end: {self.end!r}}}"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"guidance_interval.start {self.start:g} must be less than its end {self.end:g}")
        return self

    def is_on(self, step: int, num_steps: int) -> bool:
        """Whether a step is guided; one is if no part of it lies outside, as a control counts in its steps."""
        return step / num_steps >= self.start and (step + 1) / num_steps <= self.end

    def num_steps_after(self, step: int, num_steps: int) -> int:
        """Return how many steps have been taken since the interval's end with a step: 1 for the first one behind it."""
        return step + 1 - sum((before + 1) / num_steps <= self.end for before in range(num_steps))
