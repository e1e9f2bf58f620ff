"""Settings that cannot go together, or that would do nothing: told from their values alone."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from animatediff.diffusion.context import moves_window
from animatediff.diffusion.passes.strength import num_kept_steps
from animatediff.diffusion.steps.deep_cache import MOVING_WINDOW
from animatediff.rendering.catalog.entries import RenderSettings

FIELDS = (
    *("init_image", "init_video", "strength", "free_init", "second_pass", "num_inference_steps"),
    *("deep_cache", "num_frames", "context", "loop"),
    *("guidance_interval", "guidance_after_every"),
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


def _step_problems(field: str, strength: float, steps: int) -> Iterator[str]:
    if strength and not num_kept_steps(steps, strength):
        least = math.ceil(1000 / steps) / 1000
        yield f"{field} {strength:g} of {steps} steps is less than one: set it to {least:g} or more, or to 0"
