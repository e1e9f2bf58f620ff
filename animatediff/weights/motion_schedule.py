"""The noise schedule that a motion module was trained with: further training and sampling need the same."""

from collections.abc import Mapping

from pydantic import ValidationError

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.models.config import Version
from animatediff.weights import motion_modules

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
    """Return the schedule that a motion module's file names, else the one that its version was published with.

    Args:
        motion_module: URI of the file; None, which stands for fresh motion modules, has the reference's.

    Raises:
        UserError: the file cannot be read, or names no schedule that can be used.
    """
    if motion_module is None:
        return _REFERENCE
    file = motion_modules.open_file(motion_module)
    if file.schedule is None:
        return PUBLISHED[file.version]
    try:
        return NoiseSchedule.model_validate(file.schedule)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"the noise schedule in {motion_module} cannot be used: {reason}") from error
