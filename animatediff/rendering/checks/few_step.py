"""Few-step motion modules (AnimateDiff-Lightning, AnimateLCM, those distilled here), and what they are sampled with.

Files written here say it, and catalogs set themselves by them; the published ones are known by their names and shapes,
and it is left to the catalog.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.errors import UserError
from animatediff.rendering.catalog.catalog import Catalog
from animatediff.rendering.catalog.entries import Entry, Lora
from animatediff.rendering.catalog.unvalidated_copies import unvalidated_copy
from animatediff.weights.identify.metadata import read_metadata
from animatediff.weights.layouts.few_step import FewStepSampling, of_lora
from animatediff.weights.layouts.own_metadata import own_few_step
from animatediff.weights.motion_file import trained_file
from animatediff.weights.motion_modules import MotionFile
from animatediff.weights.reading.remote_header import remote_header
from animatediff.weights.reading.tensors import open_tensors

_LIGHTNING_STEPS = re.compile(r"(\d)[-_ ]?steps?", re.IGNORECASE)
_LCM_STEPS = range(1, 9)
# AnimateLCM's authors take 1 to 2; AnimateDiff-Lightning was distilled without guidance.
_MAX_GUIDANCE = 2.0
_OWN = "a distilled motion module"


class Distilled(NamedTuple):
    """A few-step motion module, or a LoRA that makes one of a motion module."""

    what: str
    sampler: str
    num_steps: int | None = None
    """That it was distilled for, where its file or its name says so."""
    guidance_scale: float | None = None
    """Where the guidance is not all in the weights: that of the rest."""
    guidance_interval: GuidanceInterval | None = None
    """And its steps."""

    @classmethod
    def own(cls, what: str, said: FewStepSampling) -> "Distilled":
        """Return what a file that was distilled here says."""
        rest = said.guidance_interval
        scale = None if rest is None else said.guidance_scale
        return cls(what, said.sampler, said.num_inference_steps, scale, rest)


def distilled(motion: MotionFile) -> Distilled | None:
    """Return what a motion module's content, name and metadata say; None for those that take many steps.

    Lightning's files have v2's names and shapes: only what they are called tells them.
    """
    if motion.few_step is not None:
        return Distilled.own(_OWN, motion.few_step)
    words = f"{PurePosixPath(motion.uri).name} {_title(motion.uri)}"
    if "lightning" in words.lower():
        steps = _LIGHTNING_STEPS.search(words)
        return Distilled("an AnimateDiff-Lightning", "euler", int(steps[1]) if steps else None)
    is_lcm = motion.version == "animatelcm" or "animatelcm" in words.lower()
    return Distilled("an AnimateLCM", "lcm") if is_lcm else None


def distilled_by_loras(loras: Iterable[Lora]) -> list[Distilled]:
    """Return what those MotionLoRAs say that were distilled here and are not left out."""
    return [
        Distilled.own(f"beside the distilled MotionLoRA {lora.path}", said)
        for lora in loras
        if lora.scale and (said := _said_by(lora.path, is_lora=True))
    ]


def set_by_files(catalog: Catalog) -> Catalog:
    """Return the catalog with what few-step motion modules and MotionLoRAs say of their sampling.

    That is the settings of the entries that are rendered with them, but for what entry or catalog say themselves. Only
    files that were distilled here say anything.
    """
    said_by = cache(_said_by)

    def changed(entry: Entry) -> Entry:
        files = (
            (entry.motion_module or catalog.motion_module, False),
            *((lora.path, True) for lora in entry.motion_loras if lora.scale),
        )
        found = next((found for uri, is_lora in files if uri and (found := said_by(uri, is_lora=is_lora))), None)
        given = entry.model_fields_set | catalog.model_fields_set
        new = {} if found is None else {name: value for name, value in found.settings.items() if name not in given}
        return unvalidated_copy(entry, entry.model_fields_set | new.keys(), **new) if new else entry

    return unvalidated_copy(catalog, entries=tuple(map(changed, catalog.entries)))


def mismatch(motion: Distilled, settings: Mapping[str, Any]) -> str | None:
    """Return what to set instead of what spoils the pictures of a few-step motion module; None where all is well.

    Args:
        motion: the motion module.
        settings: fields of `RenderSettings`.
    """
    wanted = []
    if motion.sampler == "lcm":
        if settings["sampler"] != "lcm":
            wanted.append("sampler lcm")
        if motion.num_steps is None and settings["num_inference_steps"] not in _LCM_STEPS:
            wanted.append("4 to 8 steps")
    elif (settings["sampler"], settings["timestep_spacing"]) != ("euler", "trailing"):
        wanted.append("sampler euler with timestep_spacing trailing")
    second = settings["second_pass"]
    for field, steps in (
        ("num_inference_steps", settings["num_inference_steps"]),
        ("second_pass.num_inference_steps", second and second.num_inference_steps),
    ):
        if steps and motion.num_steps not in (None, steps):
            wanted.append(f"{field} {motion.num_steps}")
    wanted += _wanted_guidance(motion, settings)
    return ", ".join(wanted) or None


def _wanted_guidance(motion: Distilled, settings: Mapping[str, Any]) -> list[str]:
    scale, steps = settings["guidance_scale"], settings["num_inference_steps"]
    if motion.guidance_scale is None:
        return [f"a guidance_scale of 1 to {_MAX_GUIDANCE:g}"] if scale > _MAX_GUIDANCE else []
    wanted = []
    if scale <= 1 or scale > motion.guidance_scale + 1:
        wanted.append(f"guidance_scale {motion.guidance_scale:g}")
    rest, found = (
        _guided_steps(interval, steps) for interval in (motion.guidance_interval, settings["guidance_interval"])
    )
    # Where guidance is folded in, more of it is as bad as with the others.
    if scale > 1 and (rest - found or (scale > _MAX_GUIDANCE and found - rest)):
        wanted.append(f"guidance_interval {motion.guidance_interval}")
    return wanted


def _guided_steps(interval: GuidanceInterval | None, num_steps: int) -> set[int]:
    return {step for step in range(num_steps) if interval is None or interval.is_on(step, num_steps)}


def _title(uri: str) -> str:
    try:
        return read_metadata(open_tensors(uri)).get("title", "")
    except UserError:  # a folder
        return ""


def _said_by(uri: str, *, is_lora: bool) -> FewStepSampling | None:
    """Return what a file says of its sampling; None where it says nothing, or cannot be read, which is told elsewhere.

    Pickles, which are read whole, are not written here.
    """
    try:
        uri = uri if is_lora else trained_file(uri) or uri
        if not uri.endswith(".safetensors"):
            return None
        metadata = (remote_header(uri) or open_tensors(uri)).metadata
        return of_lora(metadata) if is_lora else own_few_step(metadata)
    except (UserError, ValueError):
        return None
