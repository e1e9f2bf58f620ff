"""The noise schedule that a motion module was trained with, as its file says: sampling and further training need it."""

from pydantic import ValidationError

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.weights import motion_modules


def schedule_of(motion_module: str | None) -> NoiseSchedule:
    """Return the noise schedule that a motion module's file names; the reference's where it names none.

    Raises:
        UserError: the file cannot be read, or says something else.
    """
    found = motion_modules.open_file(motion_module).schedule if motion_module is not None else None
    try:
        return NoiseSchedule.model_validate(found or {})
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"the noise schedule in {motion_module} cannot be used: {reason}") from error
