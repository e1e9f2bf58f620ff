"""decord, or decord2, which is imported by the same name.

It is used only where it is known to count frames right: its seeking silently returns neighbouring frames for other
codecs and containers (measured with numbered frames for HEVC and MPEG-4 in MP4, and for AVI and MPEG-TS), and the
FFmpeg 4.1 in decord 0.6 does not know AV1.
"""

import io
import os
from collections.abc import Iterable, Iterator

import numpy as np

from animatediff.data.decoding.decoders import Decoder
from animatediff.data.decoding.videos import VideoInfo

# decord retries an end of file 10,240 times by default, which looks like a hang on a damaged file.
os.environ.setdefault("DECORD_EOF_RETRY_MAX", "128")

import decord  # it reads the variable when it is imported

_FORMATS = ("mov,mp4", "matroska,webm")
_CODECS = ("h264", "vp8", "vp9")
_BATCH = 16


class Decord:
    """The fastest for H.264 and VP9."""

    name = "decord"

    def supports(self, info: VideoInfo) -> bool:
        """H.264, VP8 and VP9 in MP4 and Matroska; it chooses among several video streams by a rule of its own."""
        is_known = info.codec in _CODECS and info.container.startswith(_FORMATS) and info.num_video_streams == 1
        return is_known and info.suits_every_decoder

    def frames(
        self, data: bytes, info: VideoInfo, indices: np.ndarray, *, height: int, width: int
    ) -> Iterable[np.ndarray]:
        """See `Decoder.frames`.

        Raises:
            ValueError: decord counts other frames than the container, or repeats one.
            decord.DECORDError: the file cannot be decoded.
        """
        # Of a tolerance above 1, decord repeats that many undecodable frames without a word.
        reader = decord.VideoReader(io.BytesIO(data), width=width, height=height, num_threads=1, fault_tol=1)
        if len(reader) != len(info.pts):
            raise ValueError(f"it counts {len(reader)} frames, the container {len(info.pts)}")
        yield from _distrust_repeats(_read(reader, indices, (height, width, 3)), info.packet_bytes[indices])
        reader.seek(0)  # releases buffers of the codec that decord otherwise leaks (decord#197)


DECODER: type[Decoder] = Decord


def _read(reader: decord.VideoReader, indices: np.ndarray, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), _BATCH):
        batch = reader.get_batch(indices[start : start + _BATCH].tolist()).asnumpy()
        if batch.shape[1:] != shape:  # some widths under 100 pixels come with the padding of their rows
            raise ValueError(f"its frames are {batch.shape[1:]}, not {shape}")
        yield from batch


def _distrust_repeats(frames: Iterable[np.ndarray], packet_bytes: np.ndarray) -> Iterator[np.ndarray]:
    """Pass frames on until three in a row are equal: of a still picture, their packets are equally large."""
    last: np.ndarray | None = None
    sizes: list[int] = []
    for frame, size in zip(frames, packet_bytes, strict=True):
        sizes = [*sizes, int(size)] if last is not None and np.array_equal(frame, last) else [int(size)]
        if len(sizes) >= 3 and len(set(sizes)) > 1:
            raise ValueError("it gives the same picture for frames that differ in the file")
        last = frame
        yield frame
