"""Samples: the frames of a video that wait until their shots are known, in one block of memory."""

import numpy as np


class Samples:
    """Frames in their order. Those of a shot are looked at where they lie, since a copy would be as large again.

    Args:
        height: pixels of a frame.
        width: pixels.
    """

    def __init__(self, *, height: int, width: int) -> None:
        self._frames = np.empty((64, height, width, 3), np.uint8)
        self._numbers: list[int] = []

    def append(self, number: int, frame: np.ndarray) -> None:
        """Add a frame, (h w 3) uint8, under its number in the video."""
        kept = len(self._numbers)
        if kept == len(self._frames):
            larger = np.empty((2 * kept, *self._frames.shape[1:]), np.uint8)
            larger[:kept] = self._frames
            self._frames = larger
        self._frames[kept] = frame
        self._numbers.append(number)

    def between(self, first: int, end: int) -> np.ndarray:
        """Return (f h w 3) the frames from `first` to before `end`, until the next call of another method."""
        start, stop = np.searchsorted(self._numbers, (first, end)).tolist()
        return self._frames[start:stop]

    def drop_before(self, first: int) -> None:
        """Forget the frames before `first`."""
        dropped, kept = int(np.searchsorted(self._numbers, first)), len(self._numbers)
        if dropped:
            self._frames[: kept - dropped] = self._frames[dropped:kept]
            del self._numbers[:dropped]
