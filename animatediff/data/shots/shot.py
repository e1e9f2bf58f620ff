"""A shot: an uninterrupted take of a video, and what one look at its frames tells of it."""

from dataclasses import dataclass
from typing import Literal

from animatediff.data.clips.crop_box import CropBox

BorderKind = Literal["cut", "dissolve", "fade", "wipe", "start", "end", "split"]
"""What a shot begins or ends with: `start` and `end` are the video's own, a `split` divides a shot that is too long."""

DAMAGED = "damaged"
"""The reason of frames that are damaged in the file or do not decode: they are a row of their own."""


@dataclass(frozen=True)
class Shot:
    """One shot of a video, without the frames around its borders that show something of its neighbours."""

    first: int
    """Number of its first frame, among the video's frames in the order they are shown."""
    num_frames: int
    start_pts: int
    """Timestamp of its first frame, in units of the stream's time base, as the container has it."""
    last_pts: int
    """Timestamp of its last frame."""
    start_s: float
    """Seconds from the video's first frame to its first."""
    end_s: float
    """Seconds from the video's first frame to the end of its last."""
    border_before: BorderKind
    border_after: BorderKind
    cut_strength: float
    """How sure its borders by a cut are, in [0, 1]: the less sure one's; 1 where it has none."""
    scores: dict[str, float | bool | int]
    """What `scoring.scores.score` gives for its middle, but `cut` is that of its worst part; empty where there is a
    `reason`."""
    text: float
    """How much of it is written, in [0, 1]: titles and credits from 0.5; 0 where there is a `reason`."""
    phashes: tuple[int, ...]
    """Perceptual hashes of frames that lie over the shot, by which repeats are found; none with a `reason`."""
    previews: tuple[bytes, ...]
    """JPEGs of its first, middle and last frame, to within an eighth of a second; none of a shot of a frame or two."""
    num_bytes: int
    """Bytes of its packets, from the key frame before its first frame on."""
    reason: str
    """Why it is not to be used, as far as it alone tells (`too_short`); empty where it may be."""


@dataclass(frozen=True)
class ScannedVideo:
    """A video, cut into its shots."""

    width: int
    """In pixels, as displayed."""
    height: int
    fps: float
    time_base: str
    """Seconds of a timestamp's unit, as a fraction, for example `1/1000`."""
    num_frames: int
    duration_s: float
    crop: CropBox | None
    """What is left without bars; None where there are none."""
    shots: tuple[Shot, ...]
    """In order; those that are too short are among them."""
