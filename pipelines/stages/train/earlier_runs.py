"""What runs of earlier versions say of their noise schedule: their configs hold a whole one, and `run.json` none."""

from typing import Any

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.training.recipes.recipe import Recipe
from animatediff.weights import motion_modules


def noise_schedule(old: dict[str, Any], recipe: Recipe) -> NoiseSchedule | None:
    """Return the schedule that a run has trained with so far; None where its version did not say.

    Args:
        old: its config; that of a motion module's file without a schedule held for training.
        recipe: what it is to go on with.
    """
    given, motion_module = old.get("schedule"), recipe.config.model.motion_module
    if motion_module is None or not isinstance(given, dict) or None in given.values():
        return None
    names_one = motion_modules.open_file(motion_module).schedule is not None
    return None if names_one else NoiseSchedule.model_validate(given)


def without_default_schedule(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the old config's `schedule` without the defaults that were written where nothing was said.

    Args:
        old: the run's config so far; empty is returned where its `schedule` is not whole.
        new: the config to go on with.
    """
    given, default = old.get("schedule"), NoiseSchedule().model_dump(mode="json")
    if not isinstance(given, dict) or None in given.values():
        return {}
    now = new["schedule"]
    return {"schedule": {n: None if now.get(n) is None and v == default.get(n) else v for n, v in given.items()}}
