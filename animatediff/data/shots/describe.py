"""What one look at a take's frames tells of it: scores, text, hashes, previews."""

import io

import numpy as np
from PIL import Image

from animatediff.data.decoding.videos import VideoInfo
from animatediff.data.scoring.hard_cuts import cut_score
from animatediff.data.scoring.scores import clip_cells, score
from animatediff.data.shots.hashes import shot_phashes
from animatediff.data.shots.rules import Take
from animatediff.data.shots.shot import Shot
from animatediff.data.shots.text import text_score

_WINDOW = 16
"""Frames that scores are of, as those of ingest's clips."""
_HOP = 12
"""Frames from one window to the next: they overlap, so that every two neighbours are seen with some on both sides."""
_PREVIEW = 160
"""Pixels of a preview's longest side."""
_QUALITY = 80


def describe_take(take: Take, info: VideoInfo, frames: np.ndarray, *, reason: str) -> Shot:
    """Return the shot that a take is.

    Args:
        take: which frames.
        info: of the video.
        frames: (f h w 3) uint8 RGB, of the take, about an eighth of a second apart. In a shot of two frames there may
            be none, and nothing to preview.
        reason: why it is not to be used; then it has no scores and no hashes.
    """
    has_frames = len(frames) > 0
    is_scored = has_frames and not reason
    timestamps, last = info.timestamps, take.end - 1
    end_s = timestamps[take.end] if take.end < len(timestamps) else timestamps[last] + info.rate.frame_s
    return Shot(
        first=take.first,
        num_frames=take.end - take.first,
        start_pts=int(info.pts[take.first]),
        last_pts=int(info.pts[last]),
        start_s=float(timestamps[take.first]),
        end_s=float(end_s),
        border_before=take.before,
        border_after=take.after,
        cut_strength=take.strength,
        scores=_scores(frames) if is_scored else {},
        text=text_score(frames) if is_scored else 0.0,
        phashes=shot_phashes(frames) if is_scored else (),
        previews=tuple(_jpeg(frames[i]) for i in (0, len(frames) // 2, -1)) if has_frames else (),
        num_bytes=_num_bytes(take, info),
        reason=reason,
    )


def _scores(frames: np.ndarray) -> dict[str, float | bool | int]:
    """Return the scores of the window in the middle, with the `cut` of the worst."""
    start = max(0, (len(frames) - _WINDOW) // 2)
    cells = clip_cells(frames)
    cut = max(cut_score(cells[i : i + _WINDOW]) for i in range(0, max(1, len(cells) - _WINDOW + _HOP), _HOP))
    return score(frames[start : start + _WINDOW]) | {"cut": cut}


def _jpeg(frame: np.ndarray) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail((_PREVIEW, _PREVIEW))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _num_bytes(take: Take, info: VideoInfo) -> int:
    before = int(np.searchsorted(info.keyframe_pts, info.pts[take.first], side="right")) - 1
    start = int(np.searchsorted(info.pts, info.keyframe_pts[before])) if before >= 0 else 0
    return int(info.packet_bytes[start : take.end].sum())
