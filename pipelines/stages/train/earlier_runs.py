"""What runs of earlier versions say: their configs lack later sections and hold a whole noise schedule."""

from typing import Any

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.settings import TextConfig
from animatediff.weights import motion_modules

# What sections of the config mean that older versions had not.
_DEFAULTS_OF_NEWER_SECTIONS = {"text": TextConfig().model_dump(mode="json")}


def with_defaults_of_newer_sections(old: dict[str, Any]) -> dict[str, Any]:
    """Return a run's config, with their defaults for the sections that it lacks as its version had none."""
    return _DEFAULTS_OF_NEWER_SECTIONS | old


def schedule_trained_with(old: dict[str, Any], recipe: Recipe) -> NoiseSchedule | None:
    """Return the schedule that a run has trained with so far; None where that cannot be known.

    It is known of a run that began with a motion module's file without a schedule: it trained with its config's. Where
    the file had one too, either may have been used.

    Args:
        old: the run's config so far.
        recipe: what it is to go on with.
    """
    given, motion_module = old.get("schedule"), recipe.config.model.motion_module
    if motion_module is None or not isinstance(given, dict) or None in given.values():
        return None
    file_has_one = motion_modules.open_file(motion_module).schedule is not None
    return None if file_has_one else NoiseSchedule.model_validate(given)


def schedule_without_defaults(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the old config's field `schedule`, with None for the defaults that were written where nothing was said.

    Args:
        old: the run's config so far; empty is returned where its `schedule` is not whole.
        new: the config to go on with.
    """
    given, default = old.get("schedule"), NoiseSchedule().model_dump(mode="json")
    if not isinstance(given, dict) or None in given.values():
        return {}
    now = new["schedule"]
    return {"schedule": {n: None if now.get(n) is None and v == default.get(n) else v for n, v in given.items()}}
