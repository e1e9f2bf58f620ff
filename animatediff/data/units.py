"""A unit's videos: fetched, checked and cut into clips, or set aside with a reason."""

import hashlib
import time
from dataclasses import dataclass, field

import numpy as np

from animatediff import storage
from animatediff.data import videos
from animatediff.data.clips import ClipConfig, clip_times, frames_at, motion_score
from animatediff.data.plan import Unit
from animatediff.data.quarantine import Reason, Rejection
from animatediff.data.sources import SourceVideo
from animatediff.data.videos import VideoError
from animatediff.errors import UserError

_FETCH_ATTEMPTS = 3


@dataclass
class Clip:
    """A decoded clip on its way to the VAE."""

    video: SourceVideo
    window: int
    frames: np.ndarray
    """(f h w 3) uint8 RGB."""
    t_start: float
    t_end: float
    fps_src: float
    motion: float
    decoder: str
    src_sha256: str

    @property
    def clip_id(self) -> str:
        """Unique in the dataset, from content alone."""
        return f"{self.video.video_id}-{self.window}"


@dataclass
class DecodedUnit:
    """All that became of a unit's videos."""

    unit: Unit
    clips: list[Clip] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


def decode_unit(unit: Unit, config: ClipConfig) -> DecodedUnit:
    """Decode every video of a unit; each ends as clips or as one rejection.

    Raises:
        UserError: the storage failed for every video. That is an outage or a missing credential, not bad videos: the
            unit stays pending.
    """
    result = DecodedUnit(unit)
    for video in unit.videos:
        data = None
        try:
            data = _fetch(video.uri)
            result.clips += _cut(video, data, config)
        except VideoError as error:
            result.rejected.append(_reject(unit, video, error, data))
        except Exception as error:  # whatever a decoder does with a strange file, its neighbours go on
            unknown = VideoError("decode", Reason.DECODE_ERROR, f"{type(error).__name__}: {error}"[:300])
            result.rejected.append(_reject(unit, video, unknown, data))
    failed = [rejection for rejection in result.rejected if rejection.reason is Reason.FETCH_ERROR]
    if len(failed) == len(unit.videos):
        raise UserError(f"no video of unit {unit.unit_id} can be fetched, is the storage down? {failed[0].detail}")
    return result


def _fetch(uri: str) -> bytes:
    for attempt in range(1, _FETCH_ATTEMPTS + 1):
        try:
            return storage.read_bytes(uri)
        except FileNotFoundError as error:
            raise VideoError("fetch", Reason.NOT_FOUND, f"there is nothing at {uri}") from error
        except UserError as error:
            if attempt == _FETCH_ATTEMPTS:
                raise VideoError("fetch", Reason.FETCH_ERROR, str(error)) from error
            time.sleep(2.0**attempt / 2)
    raise AssertionError("the loop returns or raises")


def _cut(video: SourceVideo, data: bytes, config: ClipConfig) -> list[Clip]:
    info = videos.probe(data)
    windows = clip_times(info.timestamps, config)
    if not windows:
        detail = (
            f"{len(info.pts)} frames in {info.timestamps[-1]:.2f} s, "
            f"one clip takes {(config.num_frames - 1) * config.stride + 1} frames"
        )
        raise VideoError("probe", Reason.TOO_SHORT, detail)
    indices = np.stack([frames_at(info.timestamps, times) for times in windows])
    # Overlapping windows share frames: each is decoded once.
    unique, where = np.unique(indices, return_inverse=True)
    frames, decoder = videos.read_frames(data, info, unique, height=config.height, width=config.width)
    digest = hashlib.sha256(data).hexdigest()
    return [
        Clip(
            video=video,
            window=window,
            frames=frames[rows],
            t_start=float(times[0]),
            t_end=float(times[-1]),
            fps_src=info.fps,
            motion=motion_score(frames[rows]),
            decoder=decoder,
            src_sha256=digest,
        )
        for window, (times, rows) in enumerate(zip(windows, where.reshape(indices.shape), strict=True))
    ]


def _reject(unit: Unit, video: SourceVideo, error: VideoError, data: bytes | None) -> Rejection:
    return Rejection(
        video.video_id,
        video.uri,
        unit.unit_id,
        error.stage,
        error.reason,
        error.detail,
        attempts=_FETCH_ATTEMPTS if error.reason is Reason.FETCH_ERROR else 1,
        bytes=None if data is None else len(data),
        src_sha256=None if data is None else hashlib.sha256(data).hexdigest(),
    )
