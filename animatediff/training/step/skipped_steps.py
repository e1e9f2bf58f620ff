"""Steps that were skipped since a loss or gradient was not finite: how many, on which clips, and when it is enough."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from animatediff.errors import UserError

Gather = Callable[[list[str]], list[str]]
"""One worker's list to all workers' lists joined, on every worker."""

_MOST_NAMED = 8


class SkippedStep(NamedTuple):
    """A step that was skipped."""

    step: int
    """Counted from 0."""
    clip_ids: list[str]
    """The clips whose loss was not finite; all of the batch where only the gradients were not."""


class SkippedSteps:
    """Checks step n only when step n + 1 is queued, so that the device is never waited for.

    All workers come to the same view, as their gradients have been averaged when they are looked at.

    Args:
        limit: skipped steps in a row that are borne.
        gather: joins the workers' clip ids.
        lr: named in the error.
        scaler_may_skip: whether single steps may be skipped for the loss scaler's sake, with no clip to blame.
        on_skip: called for each step that is found to have been skipped.
    """

    def __init__(
        self, limit: int, gather: Gather, *, lr: float, scaler_may_skip: bool, on_skip: Callable[[], None]
    ) -> None:
        self._limit, self._gather, self._lr, self._scaler_may_skip = limit, gather, lr, scaler_may_skip
        self._on_skip = on_skip
        self._last: tuple[int, Tensor, Tensor, list[str]] | None = None
        self._in_a_row = 0
        self.number = 0
        """Steps skipped so far."""
        self.unreported: list[SkippedStep] = []
        """Skipped steps that nobody has taken note of yet."""

    def add(self, step: int, is_finite: Tensor, losses: Tensor, clip_ids: list[str]) -> None:
        """Take note of a step, and check the one before.

        Args:
            step: counted from 0.
            is_finite: scalar, whether its gradients were.
            losses: (b) of this worker's clips.
            clip_ids: b of them.

        Raises:
            UserError: too many in a row were skipped.
        """
        self.check_last_step()
        self._last = (step, is_finite, losses, clip_ids)

    def check_last_step(self) -> None:
        """Find out whether the step that was added last was skipped, unless that is known.

        This waits for the device, and all workers must call it, as they tell each other their clips.

        Raises:
            UserError: too many in a row were skipped.
        """
        if self._last is None:
            return
        (step, is_finite, losses, clip_ids), self._last = self._last, None
        if bool(is_finite):
            self._in_a_row = 0
            return
        self._on_skip()
        self.number += 1
        self._in_a_row += 1
        bad = [clip for clip, ok in zip(clip_ids, losses.isfinite().tolist(), strict=True) if not ok]
        blamed = self._gather(bad)
        if not blamed and not self._scaler_may_skip:
            blamed = self._gather(clip_ids)
        self.unreported.append(SkippedStep(step, blamed))
        if self._in_a_row > self._limit:
            raise UserError(_too_many_message(step, self._in_a_row, blamed, self._lr))


def _too_many_message(step: int, in_a_row: int, clip_ids: list[str], lr: float) -> str:
    more = len(clip_ids) - _MOST_NAMED
    named = ", ".join(clip_ids[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    clips = f" The last one's clips: {named}." if clip_ids else ""
    return (
        f"{in_a_row} steps in a row, up to step {step + 1}, had a loss or gradient that is not finite: try a lower "
        f"optim.lr than {lr:g}, or leave out bad clips with `where`.{clips}"
    )
