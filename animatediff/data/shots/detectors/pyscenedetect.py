"""PySceneDetect's detectors of hard cuts and fades, with its own thresholds: pip install scenedetect-headless.

They run without a shortest scene: true cuts that are close to each other would be lost. Flashes and shaking are cuts to
them. Dissolves are found by chance.
"""

from typing import Any

import numpy as np
from scenedetect import (  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional
    AdaptiveDetector,
    ContentDetector,
    FrameTimecode,
)

from animatediff.data.shots.detectors import Border

_FPS = 24.0
"""Any will do: frames are counted, and no length is given in seconds."""


class _SceneDetect:
    height, width = 36, 64  # as good as 256 pixels a side, and six times as fast

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self._num_frames = 0
        self.settled = 0

    def add(self, picture: np.ndarray) -> list[Border]:
        """See `BorderDetector.add`."""
        bgr = np.ascontiguousarray(picture[..., ::-1])
        found = self._detector.process_frame(FrameTimecode(self._num_frames, _FPS), bgr)
        self._num_frames += 1
        self.settled = max(0, self._num_frames - self._detector.event_buffer_length)
        return [_cut(timecode) for timecode in found]

    def finish(self) -> list[Border]:
        """See `BorderDetector.finish`."""
        return [_cut(timecode) for timecode in self._detector.post_process(FrameTimecode(self._num_frames, _FPS))]


def _cut(timecode: Any) -> Border:
    return Border(timecode.frame_num, timecode.frame_num, "cut", 1.0)


class Content(_SceneDetect):
    """A cut is where hue, saturation and brightness change by 27 levels on average."""

    def __init__(self) -> None:
        super().__init__(ContentDetector(min_scene_len=1))


class Adaptive(_SceneDetect):
    """A cut is where they change three times as much as in the frames around."""

    def __init__(self) -> None:
        super().__init__(AdaptiveDetector(min_scene_len=1))
