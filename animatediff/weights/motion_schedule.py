"""The noise schedule that a motion module was trained with: further training and sampling need the same.

What is predicted is the UNet's matter, whichever motion module is in it: a checkpoint, or the base, may say it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import ValidationError

from animatediff.config import first_problem
from animatediff.diffusion.noise_schedule import NoiseSchedule, NoiseScheduleOverrides
from animatediff.errors import UserError
from animatediff.models.config import Version
from animatediff.weights import motion_modules
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.motion_modules import MotionFile
from animatediff.weights.prediction import Prediction

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


def with_overrides(schedule: NoiseSchedule, overrides: NoiseScheduleOverrides | None) -> NoiseSchedule:
    """Return a schedule with what a user says of it.

    Raises:
        UserError: the two together are no schedule.
    """
    if overrides is None:
        return schedule
    try:
        return overrides.apply_to(schedule)
    except ValidationError as error:
        raise UserError(first_problem(error)) from error


class MotionSchedule(NamedTuple):
    """A motion module's noise schedule, before it is put into a UNet."""

    schedule: NoiseSchedule
    is_named: bool = False
    """Whether its file names it; else it is what its version was published with."""

    def on(self, base: BaseFacts, checkpoint: Prediction | None = None) -> NoiseSchedule:
        """Return the schedule that it is trained and sampled with in a UNet that may predict the velocity.

        The amounts of noise are the motion module's. A checkpoint says what is predicted before the base does, and both
        before the motion module: but a module that was trained on the velocity knows how its schedule ended.

        Args:
            base: of the UNet.
            checkpoint: what the checkpoint in its place says, if it says anything.

        Raises:
            UserError: the base predicts neither noise nor velocity.
        """
        said = checkpoint or base.prediction
        if said is None or not said.predicts_v:
            return self.schedule
        was_trained_so = self.is_named and self.schedule.prediction_type == said.prediction_type
        if was_trained_so and checkpoint is None:
            return self.schedule
        return NoiseSchedule.model_validate(self.schedule.model_dump() | said._asdict())


def read_schedule(motion_module: str | None) -> MotionSchedule:
    """Return the schedule of a motion module at a URI; None, which stands for fresh ones, has the reference's.

    Raises:
        UserError: the file cannot be read, or names no schedule that can be used.
    """
    return MotionSchedule(_REFERENCE) if motion_module is None else schedule_of(motion_modules.open_file(motion_module))


def schedule_of(file: MotionFile) -> MotionSchedule:
    """Return the schedule that a motion module's file names, else its published version's, else the reference's.

    Raises:
        UserError: it names no schedule that can be used.
    """
    if file.schedule is None:
        # The version of a smaller one, for a base of somebody's own, is only that whose shape it has most of.
        return MotionSchedule(PUBLISHED[file.version] if file.has_published_widths else _REFERENCE)
    try:
        return MotionSchedule(NoiseSchedule.model_validate(file.schedule), is_named=True)
    except ValidationError as error:
        raise UserError(f"the noise schedule in {file.uri} cannot be used: {first_problem(error)}") from error
