"""A video file that was probed and stays open, so that decoding it does not begin with looking into it once more."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av

from animatediff.data.decoding.timeline import Packet, describe
from animatediff.data.decoding.videos import VideoInfo, open_and_probe, open_video
from animatediff.data.sources.limits import MAX_PIXELS

# They find their first packet by an index, whatever was read before.
_REWINDABLE = ("mov,mp4", "matroska,webm")
_BEFORE_ALL = -(2**50)
"""Microseconds: 36 years."""


@dataclass(frozen=True)
class VideoFile:
    """A video file, and what its container says."""

    data: bytes
    info: VideoInfo
    container: Any = None
    """PyAV's, if the file is still open; it has been read to its end."""
    first_packet: Packet | None = None
    """Of the stream, as the open container gave it."""

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Return a container at the file's start: the one that is open, as far as it can be rewound, or another.

        Its stream is decoded by one thread. To open a file anew costs some decoded frames: FFmpeg learns from them what
        the header does not say.
        """
        if self._is_rewound():
            yield self.container
        else:
            with open_video(self.data) as container:
                container.streams[self.info.stream].codec_context.thread_count = 1
                yield container

    def _is_rewound(self) -> bool:
        if self.container is None or self.info.changes or not self.info.container.startswith(_REWINDABLE):
            return False
        stream = self.container.streams[self.info.stream]
        try:
            self.container.seek(_BEFORE_ALL)
            first = next(self.container.demux(stream))
            self.container.seek(_BEFORE_ALL)
            stream.codec_context.flush_buffers()
        except av.error.FFmpegError:
            return False
        return describe(first) == self.first_packet


@contextmanager
def open_file(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[VideoFile]:
    """Probe a video file and keep it open.

    Args:
        data: the file's bytes.
        max_pixels: of a frame.

    Raises:
        VideoError: see `probe`.
        MemoryError: likewise.
    """
    container, info, first_packet = open_and_probe(data, max_pixels=max_pixels)
    with container:
        yield VideoFile(data, info, container, first_packet)
