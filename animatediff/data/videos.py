"""Videos: their timestamps, and frames at chosen indices.

The container is read once without decoding (`probe`), which gives exact timestamps and tells truncated files from
whole ones. Frames then come from decord where it is known to count frames right, and from PyAV elsewhere and where
decord fails: decord's seeking silently returns neighbouring frames for other codecs and containers (measured with
numbered frames for HEVC and MPEG-4 in MP4, and for AVI and MPEG-TS), and its FFmpeg 4.1 does not know AV1.
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

_DECORD_FORMATS = ("mov,mp4", "matroska,webm")
_DECORD_CODECS = ("h264", "vp8", "vp9")
# A tag in another character set must not make the file unreadable.
_TOLERANT = {"metadata_errors": "replace"}


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
    container: str
    """FFmpeg's name of the format, for example `mov,mp4,m4a,3gp,3g2,mj2`."""
    codec: str
    """FFmpeg's name, for example `h264`."""

    @cached_property
    def timestamps(self) -> np.ndarray:
        """(n,) seconds from the first frame's start."""
        return (self.pts - self.pts[0]) * self.time_base_s

    @property
    def is_for_decord(self) -> bool:
        """Whether decord is known to return the right frames."""
        return self.codec in _DECORD_CODECS and self.container.startswith(_DECORD_FORMATS)

    @property
    def has_true_pts(self) -> bool:
        """Whether frames can be told by their timestamps: AVI stores none, FFmpeg counts packets there."""
        return self.container != "avi"

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
        with av.open(io.BytesIO(data), **_TOLERANT) as container:
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
    pts = np.unique(np.array([p.pts for p in packets if not p.is_discard], dtype=np.int64))
    if len(pts) < sum(not p.is_discard for p in packets) or not len(pts):
        raise VideoError("probe", Reason.DECODE_ERROR, "several frames share a timestamp, or none is to be shown")
    return VideoInfo(pts, float(stream.time_base), container.format.name, stream.codec_context.name)


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
    frames, decoder = _decode(data, info, indices)
    return np.stack([fit(frame, height=height, width=width) for frame in frames]), decoder


def _decode(data: bytes, info: VideoInfo, indices: np.ndarray) -> tuple[list[np.ndarray], str]:
    why_not = f"not used for {info.codec} in {info.container}"
    if info.is_for_decord:
        try:
            return list(_decode_decord(data, info, indices)), "decord"
        except Exception as error:  # decord raises bare RuntimeErrors of its own making
            why_not = _one_line(error)
    return _decode_pyav(data, info, indices, why_not), "pyav"


def _decode_decord(data: bytes, info: VideoInfo, indices: np.ndarray) -> np.ndarray:
    import decord  # a second import of FFmpeg's libraries: only where videos are decoded

    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    if len(reader) != len(info.pts):
        raise ValueError(f"decord counts {len(reader)} frames, the container {len(info.pts)}")
    frames = reader.get_batch(indices.tolist()).asnumpy()
    reader.seek(0)  # releases decoder buffers that decord otherwise leaks (decord#197)
    return frames


def _decode_pyav(data: bytes, info: VideoInfo, indices: np.ndarray, decord_error: str) -> list[np.ndarray]:
    # A frame's name is its timestamp; where there are none, its number among the decoded ones.
    names = [int(info.pts[i]) if info.has_true_pts else int(i) for i in indices]
    wanted = set(names)
    found: dict[int, np.ndarray] = {}
    try:
        with av.open(io.BytesIO(data), **_TOLERANT) as container:
            for number, frame in enumerate(container.decode(video=0)):
                name = frame.pts if info.has_true_pts else number
                if name in wanted:
                    found[name] = _upright(frame)
                if len(found) == len(wanted):
                    break
    except av.error.FFmpegError as error:
        detail = f"PyAV: {_one_line(error)}; decord: {decord_error}"
        raise VideoError("decode", Reason.DECODE_ERROR, detail) from error
    if len(found) < len(wanted):
        detail = f"{len(wanted) - len(found)} of {len(wanted)} frames did not decode; decord: {decord_error}"
        raise VideoError("decode", Reason.DECODE_ERROR, detail)
    return [found[name] for name in names]


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Pixels as they are to be shown: decord applies the container's rotation by itself, PyAV does not."""
    return np.rot90(frame.to_ndarray(format="rgb24"), k=frame.rotation // 90)


def _one_line(error: Exception) -> str:
    lines = str(getattr(error, "strerror", "") or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
