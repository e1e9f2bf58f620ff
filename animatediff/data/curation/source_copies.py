"""Selected shots out of their sources, as videos or as frames; each that gives none has a reason."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.frames import WantedFrames
from animatediff.data.shots.copies.supervisor import OF_THE_PROCESS, CopySupervisor
from animatediff.data.sources.uris import ShotPart
from animatediff.data.supervision.supervisor import ChildLimits
from animatediff.errors import UserError

NOT_COPIED = "not_copied"
"""The reason of a shot whose frames cannot be cut out of its source."""
_GONE = (Reason.FETCH_ERROR, Reason.NOT_FOUND, Reason.FETCH_REFUSED)


class SourceCopies:
    """Cuts shots out of their sources, in a child process; a context manager that ends it.

    Args:
        limits: of one shot.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.
    """

    def __init__(self, limits: ChildLimits, *, trusted: bool) -> None:
        self._supervisor, self._trusted = CopySupervisor(limits), trusted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._supervisor.close()

    def copy(self, shot: Mapping[str, Any]) -> bytes:
        """Return a shot's own video file, its packets as the source has them.

        Args:
            shot: a row of the shot table, with `uri` as it is read from.

        Raises:
            VideoError: it cannot be cut out of its source; `reason_of` says so in a row.
            UserError: the source cannot be read any more.
        """
        with _told_if_gone():
            return self._supervisor.copy(_part(shot), num_frames=shot["num_frames"], trusted=self._trusted)

    def frames(self, shot: Mapping[str, Any], *, number: int, side: int) -> np.ndarray:
        """Return frames of a shot without its bars; see `WantedFrames`, and `copy` for what is raised."""
        wanted = WantedFrames(number, side, _crop_of(shot))
        with _told_if_gone():
            return self._supervisor.frames(_part(shot), wanted, num_frames=shot["num_frames"], trusted=self._trusted)


def reason_of(error: VideoError) -> str:
    """Return the reason of a shot that cannot be cut out of its source."""
    return str(error.reason) if error.reason in OF_THE_PROCESS else NOT_COPIED


@contextmanager
def _told_if_gone() -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        if error.reason in _GONE:
            raise UserError(f"a source of shots cannot be read any more, restore it: {error.detail}") from error
        raise


def _part(shot: Mapping[str, Any]) -> ShotPart:
    return ShotPart(shot["uri"], shot["start_pts"], shot["last_pts"])


def _crop_of(shot: Mapping[str, Any]) -> CropBox | None:
    if shot["crop_w"] is None:
        return None
    return CropBox(shot["crop_x"], shot["crop_y"], shot["crop_w"], shot["crop_h"])
