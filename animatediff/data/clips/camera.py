"""Camera moves: crops of a video that travel, so that its clip looks as if the camera had zoomed, panned or tilted.

Reference clips for MotionLoRAs are made so (AnimateDiff, section 4.3). The moves have the names of the published v2
MotionLoRAs: ZoomIn, ZoomOut, PanLeft, PanRight, TiltUp, TiltDown.
"""

from typing import Literal

import numpy as np

CameraMove = Literal["zoom_in", "zoom_out", "pan_left", "pan_right", "tilt_up", "tilt_down"]
PANS: tuple[CameraMove, ...] = ("pan_left", "pan_right")
"""The moves that a mirror turns into one another."""

_BACKWARDS: tuple[CameraMove, ...] = ("zoom_out", "pan_left", "tilt_up")


def crop_boxes(
    move: CameraMove,
    num_frames: int,
    *,
    size: tuple[int, int],
    source: tuple[int, int],
    travel: float,
) -> np.ndarray:
    """Return where each frame of a clip is cropped from its source.

    All crops have the clip's aspect ratio, and their path lies in the middle of the picture.

    - zoom_in: the crop shrinks about the picture's centre, things grow. It begins as the largest crop there is, and
      ends with 1 - `travel` of its sides. zoom_out: the same backwards, things shrink.
    - pan_right: the camera turns right: the crop, of one size, slides to the right by `travel` of its width, the
      picture's content moves to the left. pan_left: the crop slides to the left, the content moves to the right.
    - tilt_down: the camera turns down: the crop slides down by `travel` of its height, the content moves up. tilt_up:
      the crop slides up, the content moves down.

    A sliding crop is the largest that has room for its path: where the picture is longer than the clip's shape in
    the direction of the move, that room costs less of it, or nothing.

    Args:
        move: which way.
        num_frames: of the clip. One alone shows how the move begins.
        size: (height, width) of the clip, in pixels.
        source: (height, width) of the video, in pixels.
        travel: in (0, 1).

    Returns:
        (f, 4) x, y, w, h in pixels of the source, not whole ones: left, top, width and height of each crop.
    """
    (height, width), (source_height, source_width) = size, source
    path = np.linspace(1, 0, num_frames) if move in _BACKWARDS else np.linspace(0, 1, num_frames)
    along_x = travel if move in PANS else 0.0
    along_y = travel if move in ("tilt_up", "tilt_down") else 0.0
    scale = min(source_width / (width * (1 + along_x)), source_height / (height * (1 + along_y)))
    # From frame to frame by one factor: a zoom that is linear in the crop's sides speeds up as they shrink.
    scales = scale * (1 - travel) ** path if move in ("zoom_in", "zoom_out") else np.full(num_frames, scale)
    w, h = width * scales, height * scales
    x = (source_width - w) / 2 + along_x * w * (path - 0.5)
    y = (source_height - h) / 2 + along_y * h * (path - 0.5)
    return np.stack([x, y, w, h], axis=1)
