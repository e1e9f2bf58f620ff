"""Which noise schedule a recipe trains with: what the motion module's file says, unless the config says otherwise."""

import logging

from animatediff.diffusion.noise_schedule import NoiseScheduleOverrides
from animatediff.errors import UserError, errors_with_field
from animatediff.training.settings import RecipeConfig
from animatediff.weights.motion_schedule import read_schedule

logger = logging.getLogger(__name__)


def with_noise_schedule(config: RecipeConfig) -> RecipeConfig:
    """Return the config with its noise schedule complete; a complete one needs no look at the file.

    Args:
        config: its `model.motion_module`, if any, is a file that can be opened.

    Raises:
        UserError: the file cannot be read, or what it and the config say together is no schedule.
    """
    if None not in config.schedule.model_dump().values():
        return config
    motion_module = config.model.motion_module
    with errors_with_field("model.motion_module"):
        before = read_schedule(motion_module)
    try:
        schedule = config.schedule.apply_to(before)
        if motion_module is not None and schedule != before:
            logger.warning("the schedule is not the one that %s was trained with before", motion_module)
        values = {name: getattr(config, name) for name in type(config).model_fields}
        return type(config)(**(values | {"schedule": NoiseScheduleOverrides.from_schedule(schedule)}))
    except ValueError as error:  # pydantic's, of which the first is told
        reason = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
        beside = f" beside what {motion_module} says" if motion_module is not None else ""
        raise UserError(f"schedule{beside}: {reason}") from error
