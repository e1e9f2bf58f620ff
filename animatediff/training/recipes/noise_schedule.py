"""Which noise schedule a recipe trains with: what the motion module's file says, unless the config says otherwise.

The frozen base decides what is predicted: a motion module that is published, or fresh, predicts what its base does.
"""

import logging
from typing import get_args

from animatediff.diffusion.noise_schedule import NoiseSchedule, NoiseScheduleOverrides, PredictionType
from animatediff.errors import UserError, errors_with_field
from animatediff.training.settings import RecipeConfig
from animatediff.weights import motion_modules
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.motion_schedule import PUBLISHED, schedule_of

logger = logging.getLogger(__name__)


def with_noise_schedule(config: RecipeConfig) -> RecipeConfig:
    """Return the config with its noise schedule complete; a complete one needs no look at the file and the base.

    Args:
        config: its `model.motion_module`, if any, is a file that can be opened.

    Raises:
        UserError: the file or the base cannot be read, or what they and the config say together is no schedule.
    """
    if None not in config.schedule.model_dump().values():
        return config
    motion_module = config.model.motion_module
    before = _schedule_without_overrides(config)
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


def _schedule_without_overrides(config: RecipeConfig) -> NoiseSchedule:
    """Return the schedule that a file written here names, else the published version's for what the base predicts."""
    facts, motion_module = BaseFacts(config.base), config.model.motion_module
    if motion_module is None:
        schedule = PUBLISHED[config.model.fresh_version(facts.unet)]
    else:
        with errors_with_field("model.motion_module"):
            file = motion_modules.open_file(motion_module)
            schedule = schedule_of(file)
        if file.schedule is not None:
            return schedule
    if facts.prediction_type not in get_args(PredictionType):
        raise UserError(
            f"base {config.base} predicts {facts.prediction_type}, as its scheduler says: what can be trained on are "
            f"bases that predict {' or '.join(get_args(PredictionType))}"
        )
    return NoiseSchedule.model_validate(schedule.model_dump() | {"prediction_type": facts.prediction_type})
