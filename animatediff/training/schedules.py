"""Which noise schedule a recipe trains with: what the motion module's file says, unless the recipe says otherwise."""

import logging

from animatediff.diffusion.noise_schedule import GivenSchedule
from animatediff.errors import UserError, naming
from animatediff.training.recipe import Recipe
from animatediff.weights.motion_schedule import read_schedule

logger = logging.getLogger(__name__)


def with_schedule(recipe: Recipe) -> Recipe:
    """Return the recipe with its noise schedule complete; a complete one needs no look at the file.

    Args:
        recipe: its `model.motion_module`, if any, is a file that can be opened.

    Raises:
        UserError: the file cannot be read, or what it and the recipe say together is no schedule.
    """
    if None not in recipe.schedule.model_dump().values():
        return recipe
    motion_module = recipe.model.motion_module
    with naming("model.motion_module"):
        before = read_schedule(motion_module)
    try:
        schedule = recipe.schedule.over(before)
        if motion_module is not None and schedule != before:
            logger.warning("the schedule is not the one that %s was trained with before", motion_module)
        values = {name: getattr(recipe, name) for name in Recipe.model_fields}
        return Recipe(**(values | {"schedule": GivenSchedule.whole(schedule)}))
    except ValueError as error:  # pydantic's, of which the first is told
        reason = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
        beside = f" beside what {motion_module} says" if motion_module is not None else ""
        raise UserError(f"schedule{beside}: {reason}") from error
