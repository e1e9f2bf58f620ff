"""The noise schedule that a motion module was trained with: further training and sampling need the same."""

from collections.abc import Mapping

from pydantic import ValidationError

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.models.config import Version
from animatediff.weights import motion_modules
from animatediff.weights.motion_modules import MotionFile

_REFERENCE = NoiseSchedule()

PUBLISHED: Mapping[Version, NoiseSchedule] = {
    "v1": _REFERENCE,
    "v2": _REFERENCE,
    "v3": _REFERENCE,
    "animatelcm": _REFERENCE,
    "sdxl": NoiseSchedule(beta_schedule="scaled_linear", beta_end=0.020),
    "hotshotxl": NoiseSchedule(beta_schedule="scaled_linear", beta_end=0.012),
}
"""By version. Sources: the inference configs of guoyww/AnimateDiff, for SDXL-beta those of its branch sdxl; of
G-U-N/AnimateLCM; Hotshot-XL keeps SDXL's own schedule."""


def read_schedule(motion_module: str | None) -> NoiseSchedule:
    """Return the schedule of a motion module at a URI; None, which stands for fresh ones, has the reference's.

    Raises:
        UserError: the file cannot be read, or names no schedule that can be used.
    """
    return _REFERENCE if motion_module is None else schedule_of(motion_modules.open_file(motion_module))


def schedule_of(file: MotionFile) -> NoiseSchedule:
    """Return the schedule that a motion module's file names, else its published version's, else the reference's.

    Raises:
        UserError: it names no schedule that can be used.
    """
    if file.schedule is None:
        # The version of a smaller one, for a base of somebody's own, is only that whose shape it has most of.
        return PUBLISHED[file.version] if file.has_published_widths else _REFERENCE
    try:
        return NoiseSchedule.model_validate(file.schedule)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"the noise schedule in {file.uri} cannot be used: {reason}") from error
