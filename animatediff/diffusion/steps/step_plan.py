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
    shallow: tuple[Branch, ...] = ()
    """Those of which the UNet computes the outer layers alone, with the deep features of an earlier step."""


@cache
def plan_steps(
    num_steps: int,
    *,
    is_guided: bool,
    guidance_interval: GuidanceInterval | None = None,
    guidance_after_every: int | None = None,
    guidance_every: int = 1,
    deep_every: int = 1,
    renewed: Collection[int] = frozenset(),
) -> tuple[PlannedStep, ...]:
    """Return what each of the denoising steps that are taken computes.

    Args:
        num_steps: of those that are taken.
        is_guided: whether there is guidance at all.
        guidance_interval: the steps that are guided; default: all.
        guidance_after_every: steps behind that interval of which one, the last, is guided as well; default: none is.
        guidance_every: guided steps of which one computes the negative prediction.
        deep_every: steps of which one computes all of a prediction's layers.
        renewed: steps, counted from 0, that take nothing from earlier ones, since the UNet is told other things.
    """
    plan: list[PlannedStep] = []
    kept: dict[str, int] = {}  # what later steps may take, and the step that computed it
    for step in range(num_steps):
        if step in renewed:
            kept = {}
        age = {what: step - found_at for what, found_at in kept.items()}
        is_on = is_guided and _is_on(step, num_steps, guidance_interval, guidance_after_every)
        has_negative = is_on and age.get("difference", guidance_every) >= guidance_every
        computed: tuple[Branch, ...] = ("negative", "positive") if has_negative else ("positive",)
        shallow = tuple(branch for branch in computed if age.get(branch, deep_every) < deep_every)
        kept = kept | {branch: step for branch in computed if branch not in shallow}
        if has_negative:
            kept["difference"] = step
        plan.append(PlannedStep(is_on, computed, shallow))
    return tuple(plan)


def _is_on(step: int, num_steps: int, interval: GuidanceInterval | None, after_every: int | None) -> bool:
    if interval is None or interval.is_on(step, num_steps):
        return True
    after = interval.num_steps_after(step, num_steps)
    return after_every is not None and after > 0 and after % after_every == 0
