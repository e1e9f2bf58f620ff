"""Which predictions of the UNet each denoising step computes: for sampling, and for what reckons with its cost.

It is read where torch is not.
"""

from collections.abc import Collection
from functools import cache
from typing import Literal, NamedTuple

from animatediff.diffusion.steps.guidance_interval import GuidanceInterval

Branch = Literal["negative", "positive"]
"""What a step predicts for: what guidance leads away from, and what it leads to."""


class PlannedStep(NamedTuple):
    """What one denoising step computes."""

    is_guided: bool
    """Whether guidance has a part in it."""
    computed: tuple[Branch, ...]
    """The predictions that the UNet computes. A guided step without the negative one takes the difference between the
    two from the last step that had both."""


@cache
def plan_steps(
    num_steps: int,
    *,
    is_guided: bool,
    guidance_interval: GuidanceInterval | None = None,
    guidance_every: int = 1,
    renewed: Collection[int] = frozenset(),
) -> tuple[PlannedStep, ...]:
    """Return what each of the denoising steps that are taken computes.

    Args:
        num_steps: of those that are taken.
        is_guided: whether there is guidance at all.
        guidance_interval: the steps that are guided; default: all.
        guidance_every: guided steps of which one computes the negative prediction.
        renewed: steps, counted from 0, that take nothing from earlier ones, since the UNet is told other things.
    """
    plan: list[PlannedStep] = []
    age_of_difference: int | None = None  # in steps; guided ones come one after the other
    for step in range(num_steps):
        is_on = is_guided and (guidance_interval is None or guidance_interval.is_on(step, num_steps))
        age = None if age_of_difference is None or step in renewed else age_of_difference + 1
        has_negative = is_on and (age is None or age >= guidance_every)
        age_of_difference = 0 if has_negative else age
        plan.append(PlannedStep(is_on, ("negative", "positive") if has_negative else ("positive",)))
    return tuple(plan)
