"""Settings that cannot go together, or that would do nothing: told from their values alone."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from animatediff.diffusion.context import moves_window
from animatediff.diffusion.passes.strength import num_kept_steps
from animatediff.diffusion.steps.deep_cache import MOVING_WINDOW
from animatediff.diffusion.steps.step_plan import plan_steps
from animatediff.rendering.catalog.entries import RenderSettings

FIELDS = (
    *("init_image", "init_video", "strength", "free_init", "second_pass", "num_inference_steps"),
    *("deep_cache", "num_frames", "context", "loop"),
    *("guidance_scale", "guidance_interval", "guidance_after_every"),
)
"""Fields of `RenderSettings` that are looked at."""

_DEFAULT_STRENGTH = RenderSettings.model_fields["strength"].default


def contradictions(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield why settings cannot be rendered as they are.

    Args:
        settings: fields of `RenderSettings`.
    """
    starts = [name for name in ("init_image", "init_video") if settings[name] is not None]
    strength, steps, second = settings["strength"], settings["num_inference_steps"], settings["second_pass"]
    if len(starts) == 2:
        yield "a clip begins from init_image or from init_video, not from both: set one of them to null"
    if not starts and strength != _DEFAULT_STRENGTH:
        yield "strength says how much of an init_image or init_video is made anew: name one, or leave strength away"
    if starts and settings["free_init"]:
        yield (
            f"free_init finds the noise that a clip begins from, and with {starts[0]} it begins from pictures: set one "
            "of the two to null"
        )
    interval = settings["guidance_interval"]
    if settings["guidance_after_every"] and (interval is None or interval.end == 1):
        yield (
            "guidance_after_every is of the steps behind guidance_interval, of which there are none: let that end "
            "earlier, such as {end: 0.5}, or set guidance_after_every to null"
        )
    if settings["deep_cache"] and moves_window(settings["num_frames"], settings["context"], settings["loop"]):
        yield MOVING_WINDOW
    if starts:
        yield from _step_problems("strength", strength, steps)
    if second:
        yield from _step_problems("second_pass.strength", second.strength, second.num_inference_steps or steps)
    yield from _guidance_problems("steps", num_kept_steps(steps, strength if starts else 1.0), settings)
    if second:
        kept = num_kept_steps(second.num_inference_steps or steps, second.strength)
        yield from _guidance_problems("steps of second_pass", kept, settings)


def _guidance_problems(what: str, num_taken: int, settings: Mapping[str, Any]) -> Iterator[str]:
    scale, interval = settings["guidance_scale"], settings["guidance_interval"]
    options = {name: settings[name] for name in ("guidance_interval", "guidance_after_every")}
    if num_taken and scale > 1 and not any(step.is_guided for step in plan_steps(num_taken, is_guided=True, **options)):
        yield (
            f"none of the {num_taken} {what} that are taken lies in guidance_interval {interval}, so that "
            f"guidance_scale {scale:g} would do nothing: set guidance_interval to null or a wider one, or "
            "guidance_scale to 1"
        )


def _step_problems(field: str, strength: float, steps: int) -> Iterator[str]:
    if strength and not num_kept_steps(steps, strength):
        least = math.ceil(1000 / steps) / 1000
        yield f"{field} {strength:g} of {steps} steps is less than one: set it to {least:g} or more, or to 0"
