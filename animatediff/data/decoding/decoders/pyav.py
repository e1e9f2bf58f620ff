"""PyAV: FFmpeg as it is, for every codec and container that it knows."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from animatediff.data.decoding.colours import UNSPECIFIED, to_srgb
from animatediff.data.decoding.decoders import Decoder
from animatediff.data.decoding.fields import progressive
from animatediff.data.decoding.open_file import VideoFile
from animatediff.data.decoding.stream import from_first_keyframe
from animatediff.data.decoding.videos import VideoInfo
from animatediff.data.quarantine import Reason, VideoError

# Of their packets, FFmpeg knows before it decodes them which no other picture refers to.
_UNREFERENCED = ("h264", "mpeg4", "mpeg2video", "mpeg1video")


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
        for frame in decoded(VideoFile(data, info), indices):
            yield _upright(frame, info, height=height, width=width)


DECODER: type[Decoder] = PyAV


def decoded(video: VideoFile, indices: np.ndarray) -> Iterator[Any]:
    """Yield the frames at `indices` as PyAV has them; raises as `PyAV.frames` does."""
    info = video.info
    # A frame's name is its timestamp; where there are none, its number among the decoded ones.
    wanted = deque(int(info.pts[i]) if info.has_true_pts else int(i) for i in indices)
    # Some files call frames key, or unused by others, that are not: what is missing is sought among all frames.
    for take_all in (False, True) if info.has_true_pts else (True,):
        for frame in _find(video, wanted, take_all=take_all):
            if (frame.width, frame.height) != info.stored:
                detail = f"a frame of {frame.width}x{frame.height} where {info.stored[0]}x{info.stored[1]} are told"
                raise VideoError("decode", Reason.SIZE_CHANGES, detail)
            yield frame
    if wanted:
        raise ValueError(f"{len(wanted)} of {len(indices)} frames did not decode")


def _find(video: VideoFile, wanted: deque[int], *, take_all: bool) -> Iterator[Any]:
    """Yield the wanted frames, each taken off `wanted` when it is found."""
    if not wanted:
        return
    info = video.info
    with video.opened() as container:
        stream = container.streams[info.stream]
        packets = from_first_keyframe(container.demux(stream), info)
        found = _decode(packets, stream.codec_context) if take_all else _pass_over(packets, stream, info, wanted)
        for number, frame in enumerate(progressive(found)):
            if (frame.pts if info.has_true_pts else number) == wanted[0]:
                wanted.popleft()
                yield frame
            if not wanted:
                return


def _decode(packets: Iterable[Any], context: Any) -> Iterator[Any]:
    context.skip_frame = "DEFAULT"
    for packet in packets:
        yield from packet.decode()


def _pass_over(packets: Iterable[Any], stream: Any, info: VideoInfo, wanted: deque[int]) -> Iterator[Any]:
    """Yield the video's frames but those that are not needed for the wanted ones.

    None in place of those between the last wanted one and the key frame before the next. Pictures that no other one
    refers to are left out where they are not wanted, a third to a half of the usual H.264.
    """
    context, names = stream.codec_context, set(wanted)
    can_skip = info.codec in _UNREFERENCED and not info.is_interlaced
    passed, skipped = -np.inf, False
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None:
            passed = packet.pts
        before = int(np.searchsorted(info.keyframe_pts, wanted[0], side="right")) - 1
        if before >= 0 and passed < info.keyframe_pts[before]:
            skipped = True
            continue
        if skipped and context.is_open:
            context.flush_buffers()
            yield None
        skipped = False
        context.skip_frame = "NONREF" if can_skip and packet.pts is not None and packet.pts not in names else "DEFAULT"
        yield from packet.decode()


def _upright(frame: Any, info: VideoInfo, *, height: int, width: int) -> np.ndarray:
    """SRGB pixels as they are to be shown: FFmpeg leaves the container's rotation to its users."""
    colours = info.colours
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
    return np.rot90(pixels[::-1] if info.is_mirrored else pixels, k=turns)
