"""PyAV: FFmpeg as it is, for every codec and container that it knows."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from animatediff.data.decoding.colours import UNSPECIFIED, Colours, to_srgb
from animatediff.data.decoding.decoders import Decoder
from animatediff.data.decoding.fields import progressive
from animatediff.data.decoding.stream import from_first_keyframe
from animatediff.data.decoding.videos import VideoInfo, open_video
from animatediff.data.quarantine import Reason, VideoError


class PyAV:
    """Finds frames by their timestamps, so that it is right wherever they lie."""

    name = "pyav"

    def supports(self, info: VideoInfo) -> bool:
        """Everything that `probe` could open."""
        return True

    def frames(
        self, data: bytes, info: VideoInfo, indices: np.ndarray, *, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """See `Decoder.frames`.

        Raises:
            ValueError: some of the frames did not decode.
            VideoError: a frame has another size than the header says.
            av.error.FFmpegError: FFmpeg gave up on the file.
        """
        for frame in self.decoded(data, info, indices):
            yield _upright(frame, info.colours, height=height, width=width)

    def decoded(self, data: bytes, info: VideoInfo, indices: np.ndarray) -> Iterator[Any]:
        """Yield the frames at `indices` as PyAV has them; raises as `frames` does."""
        # A frame's name is its timestamp; where there are none, its number among the decoded ones.
        wanted = deque(int(info.pts[i]) if info.has_true_pts else int(i) for i in indices)
        every_frame = info.keyframe_pts[:0]
        # Some files call frames key that are none: what does not decode from there is sought from the start.
        for keyframe_pts in (info.keyframe_pts, every_frame) if info.has_true_pts else (every_frame,):
            for frame in _find(data, info, keyframe_pts, wanted):
                if (frame.width, frame.height) != info.stored:
                    detail = f"a frame of {frame.width}x{frame.height} where {info.stored[0]}x{info.stored[1]} are told"
                    raise VideoError("decode", Reason.SIZE_CHANGES, detail)
                yield frame
        if wanted:
            raise ValueError(f"{len(wanted)} of {len(indices)} frames did not decode")


DECODER: type[Decoder] = PyAV


def _find(data: bytes, info: VideoInfo, keyframe_pts: np.ndarray, wanted: deque[int]) -> Iterator[Any]:
    """Yield the wanted frames, each taken off `wanted` when it is found."""
    if not wanted:
        return
    with open_video(data) as container:
        stream = container.streams[info.stream]
        stream.codec_context.thread_count = 1
        packets = from_first_keyframe(container.demux(stream), info)
        for number, frame in enumerate(progressive(_decode(packets, stream, keyframe_pts, wanted))):
            if (frame.pts if info.has_true_pts else number) == wanted[0]:
                wanted.popleft()
                yield frame
            if not wanted:
                return


def _decode(packets: Iterable[Any], stream: Any, keyframe_pts: np.ndarray, wanted: deque[int]) -> Iterator[Any]:
    """Yield the video's frames.

    None in place of those between the last wanted one and the key frame before the next.
    """
    passed, skipped = -np.inf, False
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None:
            passed = packet.pts
        before = int(np.searchsorted(keyframe_pts, wanted[0], side="right")) - 1
        if before >= 0 and passed < keyframe_pts[before]:
            skipped = True
            continue
        if skipped and stream.codec_context.is_open:
            stream.codec_context.flush_buffers()
            yield None
        skipped = False
        yield from packet.decode()


def _upright(frame: Any, colours: Colours, *, height: int, width: int) -> np.ndarray:
    """SRGB pixels as they are to be shown: FFmpeg leaves the container's rotation to its users."""
    turns = round(frame.rotation / 90) % 4
    stored_height, stored_width = (width, height) if turns % 2 else (height, width)
    if frame.colorspace == UNSPECIFIED != colours.matrix:  # only the container says it
        frame.colorspace = colours.matrix
    # As good as bicubic when shrinking by 2 or more (47.3 against 47.6 dB), in half the time.
    size: dict[str, Any] = {"height": stored_height, "width": stored_width, "interpolation": "AREA"}
    if colours.are_srgb:
        pixels = frame.to_ndarray(format="rgb24", **size)
    else:
        pixels = to_srgb(frame.to_ndarray(format="rgb48le", **size), colours)
    return np.rot90(pixels, k=turns)
