"""Cutting shots out of videos in a child process, which opens the videos by itself."""

import threading
from dataclasses import dataclass

import numpy as np

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.frames import WantedFrames
from animatediff.data.sources.uris import ShotPart
from animatediff.data.supervision.supervisor import ChildLimits, Supervisor

_MOST_FAILURES = 3
"""Shots of one video in a row at which the process may die or hang before the video's others are not tried."""
OF_THE_PROCESS = (Reason.DECODER_CRASH, Reason.DECODER_HANG, Reason.OUT_OF_MEMORY)
"""Reasons of a shot at which the process died, hung or took too much memory."""


@dataclass
class _Failures:
    uri: str
    number: int
    last: VideoError


class CopySupervisor(Supervisor):
    """Cuts shots out of videos in a child process; see `Supervisor`. Threads wait for one another.

    A video at whose shots the process dies or hangs three times in a row is given up: its next shots fail by the same
    reason at once, or an hour of video would cost a day.

    Args:
        limits: of one shot.
    """

    def __init__(self, limits: ChildLimits) -> None:
        super().__init__("animatediff.data.shots.copies.child", limits)
        self._turn = threading.Lock()
        self._failures: _Failures | None = None

    def copy(self, shot: ShotPart, *, num_frames: int | None = None, trusted: bool = False) -> bytes:
        """Return a shot's own video file; see `copy.copy_shot`.

        Args:
            shot: which one, of a video as `read_source` yields it.
            num_frames: how many it has, where the caller knows it.
            trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.

        Raises:
            VideoError: the video cannot be had, or the shot not be cut out of it. If the process died or hung, that
                has happened `ATTEMPTS` or `HANG_ATTEMPTS` times, or at the shots before.
            UserError: the process cannot be started.
        """
        return self._cut(shot, trusted, num_frames, None).tobytes()

    def frames(
        self, shot: ShotPart, wanted: WantedFrames, *, num_frames: int | None = None, trusted: bool = False
    ) -> np.ndarray:
        """Return frames of a shot; see `frames.read_shot_frames`, and `copy` for what is given and raised."""
        return self._cut(shot, trusted, num_frames, wanted)

    def _cut(self, shot: ShotPart, trusted: bool, num_frames: int | None, wanted: WantedFrames | None) -> np.ndarray:
        with self._turn:
            before = self._failures if self._failures and self._failures.uri == shot.uri else None
            if before is not None and before.number >= _MOST_FAILURES:
                detail = f"{before.number} shots before it: {before.last.detail}"
                raise VideoError(before.last.stage, before.last.reason, detail)
            try:
                answer: np.ndarray = self._ask(shot, trusted, num_frames, wanted)
            except VideoError as error:
                if error.reason in OF_THE_PROCESS:
                    self._failures = _Failures(shot.uri, before.number + 1 if before else 1, error)
                raise
            self._failures = None
            return answer
