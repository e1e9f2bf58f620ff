"""Few-step motion modules (AnimateDiff-Lightning, AnimateLCM): told by their files, and what they are sampled with."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from animatediff.errors import UserError
from animatediff.weights.identify.metadata import read_metadata
from animatediff.weights.motion_modules import MotionFile
from animatediff.weights.reading.tensors import open_tensors

_LIGHTNING_STEPS = re.compile(r"(\d)[-_ ]?steps?", re.IGNORECASE)
_LCM_STEPS = range(1, 9)
# AnimateLCM's authors take 1 to 2; AnimateDiff-Lightning was distilled without guidance.
_MAX_GUIDANCE = 2.0


class Distilled(NamedTuple):
    """A few-step motion module."""

    family: str
    num_steps: int | None = None
    """That it was distilled for, where its name says so."""


def distilled(motion: MotionFile) -> Distilled | None:
    """Return what a motion module's content, name and metadata say; None for those that take many steps.

    Lightning's files have v2's names and shapes: only what they are called tells them.
    """
    words = f"{PurePosixPath(motion.uri).name} {_title(motion.uri)}"
    if "lightning" in words.lower():
        steps = _LIGHTNING_STEPS.search(words)
        return Distilled("AnimateDiff-Lightning", int(steps[1]) if steps else None)
    return Distilled("AnimateLCM") if motion.version == "animatelcm" or "animatelcm" in words.lower() else None


def mismatch(motion: Distilled, settings: Mapping[str, Any]) -> str | None:
    """Return what to set instead of what spoils the pictures of a few-step motion module; None where all is well.

    Args:
        motion: the motion module.
        settings: fields of `RenderSettings`.
    """
    wanted = []
    if motion.family == "AnimateLCM":
        if settings["sampler"] != "lcm":
            wanted.append("sampler lcm")
        if settings["num_inference_steps"] not in _LCM_STEPS:
            wanted.append("4 to 8 steps")
    else:
        if (settings["sampler"], settings["timestep_spacing"]) != ("euler", "trailing"):
            wanted.append("sampler euler with timestep_spacing trailing")
        if motion.num_steps not in (None, settings["num_inference_steps"]):
            wanted.append(f"num_inference_steps {motion.num_steps}")
    if settings["guidance_scale"] > _MAX_GUIDANCE:
        wanted.append(f"a guidance_scale of 1 to {_MAX_GUIDANCE:g}")
    return ", ".join(wanted) or None


def _title(uri: str) -> str:
    try:
        return read_metadata(open_tensors(uri)).get("title", "")
    except UserError:  # a folder
        return ""
