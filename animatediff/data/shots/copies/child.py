"""The process that copies shots: `python -m animatediff.data.shots.copies.child FD`, as `CopySupervisor` starts it."""

import io
import time
from typing import BinaryIO

import numpy as np

from animatediff.data.shots.copies.copy import copy_shot
from animatediff.data.shots.copies.frames import WantedFrames, read_shot_frames
from animatediff.data.sources.fetching.open_file import open_video_file
from animatediff.data.sources.limits import MAX_OPENING_S, SLOWEST_BYTES_PER_S
from animatediff.data.sources.uris import ShotPart
from animatediff.data.supervision.serving import Limits, OnBusy, Work, run_child


class _Cutting:
    """One video stays open for the shots that follow one another in it."""

    def __init__(self) -> None:
        self._open: tuple[str, BinaryIO] | None = None

    def cut(
        self, on_busy: OnBusy, shot: ShotPart, trusted: bool, num_frames: int | None, wanted: WantedFrames | None
    ) -> np.ndarray:
        """Return (n) the bytes of a shot's own video file, or the frames that are wanted of it."""
        try:
            return self._cut(on_busy, shot, trusted, num_frames, wanted)
        except BaseException:
            self._close()
            raise

    def _cut(
        self, on_busy: OnBusy, shot: ShotPart, trusted: bool, num_frames: int | None, wanted: WantedFrames | None
    ) -> np.ndarray:
        began = time.monotonic()
        on_busy("the opening of the file", MAX_OPENING_S)
        file = self._file(shot.uri, trusted)
        opening_s = time.monotonic() - began
        reading_s = file.seek(0, io.SEEK_END) / SLOWEST_BYTES_PER_S
        on_busy("the copying of a shot", opening_s + reading_s)

        def on_encode(length_s: float) -> None:
            # Twice the video's length, as decoding has. The file is read again.
            on_busy("the encoding of a shot", opening_s + 2 * reading_s + 2 * length_s)

        copy = copy_shot(
            file, start_pts=shot.start_pts, last_pts=shot.last_pts, num_frames=num_frames, on_encode=on_encode
        )
        # As an array, which is sent as it lies in memory.
        return np.frombuffer(copy, np.uint8) if wanted is None else read_shot_frames(copy, wanted)

    def _file(self, uri: str, trusted: bool) -> BinaryIO:
        if self._open is None or self._open[0] != uri:
            self._close()
            self._open = uri, open_video_file(uri, trusted=trusted)
            self._open[1].read(1)  # nothing was asked for yet of a member of a tar
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _prepare(limits: Limits) -> Work:
    return _Cutting().cut


if __name__ == "__main__":
    run_child(_prepare)
