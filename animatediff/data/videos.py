"""Videos: their timestamps, and frames at chosen indices.

The container is read once without decoding (`probe`), which gives exact timestamps and tells truncated files from
whole ones. Frames then come from decord, and from PyAV where decord fails: decord's bundled FFmpeg 4.1 knows neither
AV1 nor odd containers.
"""

import io
import os
from dataclasses import dataclass
from functools import cached_property

import av
import numpy as np

from animatediff.data.clips import fit
from animatediff.data.quarantine import Reason

# decord retries an end of file 10,240 times by default, which looks like a hang on a damaged file.
os.environ.setdefault("DECORD_EOF_RETRY_MAX", "128")


class VideoError(Exception):
    """A video that cannot be used.

    Args:
        stage: probe or decode.
        reason: from the closed list.
        detail: one line for a person.
    """

    def __init__(self, stage: str, reason: Reason, detail: str) -> None:
        super().__init__(stage, reason, detail)
        self.stage, self.reason, self.detail = stage, reason, detail


@dataclass(frozen=True)
class VideoInfo:
    """What the container says of its first video stream."""

    pts: np.ndarray
    """(n,) int64 presentation timestamps in the stream's time base, ascending."""
    time_base_s: float

    @cached_property
    def timestamps(self) -> np.ndarray:
        """(n,) seconds from the first frame's start."""
        return (self.pts - self.pts[0]) * self.time_base_s

    @property
    def fps(self) -> float:
        """Frames per second of the median frame; 0 for a single frame."""
        return float(1 / np.median(np.diff(self.timestamps))) if len(self.pts) > 1 else 0.0


def probe(data: bytes) -> VideoInfo:
    """Read the container of a video file, decoding nothing.

    Raises:
        VideoError: the file is empty, no video, or ends before the frames that its header promises.
    """
    if not data:
        raise VideoError("probe", Reason.EMPTY, "the file has 0 bytes")
    try:
        with av.open(io.BytesIO(data)) as container:
            return _read_packets(container)
    except av.error.FFmpegError as error:
        # An MP4 whose index is missing cannot be opened; its first box still says what it was.
        reason = Reason.TRUNCATED if data[4:8] == b"ftyp" else Reason.NOT_VIDEO
        raise VideoError("probe", reason, _one_line(error)) from error


def _read_packets(container: av.container.InputContainer) -> VideoInfo:
    if not container.streams.video:
        raise VideoError("probe", Reason.NO_STREAM, "the file has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError("probe", Reason.CODEC_UNSUPPORTED, "no decoder for the video stream's codec")
    packets = [p for p in container.demux(stream) if p.pts is not None]
    if not packets or len(packets) < stream.frames or any(p.is_corrupt for p in packets):
        detail = f"{len(packets)} of the {stream.frames} frames that the header promises are there"
        raise VideoError("probe", Reason.TRUNCATED, detail)
    pts = np.sort(np.array([p.pts for p in packets if not p.is_discard], dtype=np.int64))
    return VideoInfo(pts, float(stream.time_base))


def read_frames(
    data: bytes, info: VideoInfo, indices: np.ndarray, *, height: int, width: int
) -> tuple[np.ndarray, str]:
    """Decode frames, resized and cropped.

    Args:
        data: the video file.
        info: its `probe`.
        indices: (k,) ascending frame numbers in presentation order.
        height: pixels of the result.
        width: pixels of the result.

    Returns:
        (k h w 3) uint8 RGB, and the decoder's name.

    Raises:
        VideoError: neither decoder gives the frames.
    """
    try:
        frames, decoder = list(_decode_decord(data, info, indices)), "decord"
    except Exception as error:  # decord raises bare RuntimeErrors of its own making
        frames, decoder = _decode_pyav(data, info, indices, _one_line(error)), "pyav"
    return np.stack([fit(frame, height=height, width=width) for frame in frames]), decoder


def _decode_decord(data: bytes, info: VideoInfo, indices: np.ndarray) -> np.ndarray:
    import decord  # a second import of FFmpeg's libraries: only where videos are decoded

    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    if len(reader) != len(info.pts):
        raise ValueError(f"decord counts {len(reader)} frames, the container {len(info.pts)}")
    frames = reader.get_batch(indices.tolist()).asnumpy()
    reader.seek(0)  # releases decoder buffers that decord otherwise leaks (decord#197)
    return frames


def _decode_pyav(data: bytes, info: VideoInfo, indices: np.ndarray, decord_error: str) -> list[np.ndarray]:
    wanted = {int(info.pts[i]) for i in indices}
    found: dict[int, np.ndarray] = {}
    try:
        with av.open(io.BytesIO(data)) as container:
            for frame in container.decode(video=0):
                if frame.pts in wanted:
                    found[frame.pts] = frame.to_ndarray(format="rgb24")
                if len(found) == len(wanted):
                    break
    except av.error.FFmpegError as error:
        detail = f"PyAV: {_one_line(error)}; decord: {decord_error}"
        raise VideoError("decode", Reason.DECODE_ERROR, detail) from error
    if len(found) < len(wanted):
        detail = f"{len(wanted) - len(found)} of {len(wanted)} frames did not decode; decord: {decord_error}"
        raise VideoError("decode", Reason.DECODE_ERROR, detail)
    return [found[int(info.pts[i])] for i in indices]


def _one_line(error: Exception) -> str:
    lines = str(getattr(error, "strerror", "") or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
