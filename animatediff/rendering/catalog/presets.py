"""Presets: settings by one name that say how much computing a clip is worth, and what that was measured to cost.

They were measured on the sprite world's shipped base with guidance 5, by `tests/benchmarks/bench_presets.py`. Other
bases were not: render a few clips both ways before many.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from animatediff.diffusion.steps.guidance_interval import GuidanceInterval

PresetName = Literal["draft", "fast", "quality"]


class Measured(NamedTuple):
    """What a preset was measured to do, beside `quality` with the same prompts and seeds."""

    speed: float
    """Clips in the time of one of `quality`: the median of rounds that took turns."""
    num_clips: int
    right: Mapping[str, float]
    """Shares in [0, 1] of the frames that show their prompt's shape and colour, and of the clips that keep their
    subject and that move as their prompt says."""


class Preset(NamedTuple):
    """One way to sample."""

    settings: Mapping[str, Any]
    """Fields of `RenderSettings`: the same ones in each preset, so that one undoes all that another one says."""
    measured: Measured


def _settings(
    sampler: str,
    num_inference_steps: int,
    *,
    guidance_interval: GuidanceInterval | None = None,
    guidance_after_every: int | None = None,
) -> dict[str, Any]:
    return {
        "sampler": sampler,
        "timestep_spacing": None,
        "num_inference_steps": num_inference_steps,
        "guidance_interval": guidance_interval,
        "guidance_after_every": guidance_after_every,
        "guidance_every": 1,
        "deep_cache": None,
    }


def _measured(
    speed: float, shape: float, colour: float, keeps_itself: float, follows: float, *, num_clips: int
) -> Measured:
    right = {"shape": shape, "colour": colour, "keeps itself": keeps_itself, "follows": follows}
    return Measured(speed, num_clips, right)


PRESETS: Mapping[PresetName, Preset] = {
    "draft": Preset(
        _settings("dpmpp_2m", 6, guidance_interval=GuidanceInterval(end=0.5)),
        _measured(4.78, 0.849, 0.978, 0.705, 0.875, num_clips=600),
    ),
    "fast": Preset(
        _settings(
            "dpmpp_2m",
            9,
            guidance_interval=GuidanceInterval(end=0.5),
            guidance_after_every=2,
        ),
        _measured(3.09, 0.898, 0.972, 0.782, 0.880, num_clips=600),
    ),
    "quality": Preset(_settings("ddim", 25), _measured(1.0, 0.903, 0.971, 0.822, 0.885, num_clips=600)),
}
"""From the quickest to the reference's own settings.

Where all its last steps are guided, DPM-Solver++ of few loses the colours that a base knows (`checks.second_order`);
where none are, those that a textual inversion taught it.
"""


def with_preset(values: Any) -> Any:
    """Return settings as they are written, with those of the preset that they name where they say nothing else."""
    if not isinstance(values, Mapping):
        return values
    named = [preset.settings for name, preset in PRESETS.items() if values.get("preset") == name]
    return {**named[0], **values} if named else values


def preset_as_measured(settings: Any) -> PresetName | None:
    """Return the preset that settings name, if they override nothing of it: its figures are then theirs.

    Args:
        settings: a `RenderSettings`.
    """
    name: PresetName | None = settings.preset
    if name is None or any(getattr(settings, field) != value for field, value in PRESETS[name].settings.items()):
        return None
    return name


def told(name: PresetName) -> str:
    """Return a preset's figures as a line for a log."""
    measured = PRESETS[name].measured
    shares = ", ".join(f"{what} {share:.1%}" for what, share in measured.right.items())
    return (
        f"preset {name}: {measured.speed:.1f} times the speed of preset quality; right in the sprite world, "
        f"guidance 5, {measured.num_clips} clips: {shares}"
    )
