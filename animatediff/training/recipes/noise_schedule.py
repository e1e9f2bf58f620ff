"""Which noise schedule a recipe trains with: what the motion module's file says, unless the config says otherwise.

The frozen base decides what is predicted: a motion module that is published, or fresh, predicts what its base does.
"""

import logging

from pydantic import ValidationError

from animatediff.config import first_problem
from animatediff.diffusion.noise_schedule import NoiseSchedule, NoiseScheduleOverrides
from animatediff.errors import UserError, errors_with_field
from animatediff.training.settings import BASE_AS_IS, RecipeConfig
from animatediff.weights import motion_modules
from animatediff.weights.base_facts import BaseFacts, check_kind
from animatediff.weights.motion_schedule import PUBLISHED, MotionSchedule, schedule_of, with_overrides
from animatediff.weights.prediction import Prediction, of_checkpoint

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
    except ValueError as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else str(error)
        beside = f" beside what {motion_module} says" if motion_module is not None else ""
        raise UserError(f"schedule{beside}: {reason}") from error


def _schedule_without_overrides(config: RecipeConfig) -> NoiseSchedule:
    """Return the schedule that a file written here names, else the published version's for what the base predicts."""
    facts, motion_module = BaseFacts(config.base), config.model.motion_module
    check_kind(facts)
    if motion_module is None:
        own = MotionSchedule(PUBLISHED[config.model.fresh_version(facts.unet)])
    else:
        with errors_with_field("model.motion_module"):
            own = schedule_of(motion_modules.open_file(motion_module))
    schedules = {}
    for index, name in enumerate(config.base_checkpoints or (BASE_AS_IS,)):
        with errors_with_field(f"base_checkpoints[{index}]"):
            schedules[name] = _schedule_on(name, own, facts)
    first, *others = schedules
    for other in others:
        if len({with_overrides(schedules[name], config.schedule) for name in (first, other)}) > 1:
            raise UserError(
                f"base_checkpoints: {first} is trained on as a model that predicts {_predicted(schedules[first])}, and "
                f"{other} as one of {_predicted(schedules[other])}, as they or the base say: train on one kind, or set "
                "schedule.prediction_type and schedule.zero_terminal_snr for all"
            )
    return schedules[first]


def _schedule_on(checkpoint: str, own: MotionSchedule, base: BaseFacts) -> NoiseSchedule:
    said = None if checkpoint == BASE_AS_IS else of_checkpoint(checkpoint)
    schedule = own.on(base, said)
    if schedule != own.schedule:
        name = f"checkpoint {checkpoint}" if said else f"base {base.base}"
        logger.info("%s predicts %s, as it says: the training does so, too", name, said or base.prediction)
    return schedule


def _predicted(schedule: NoiseSchedule) -> Prediction:
    return Prediction(schedule.prediction_type, schedule.zero_terminal_snr)
