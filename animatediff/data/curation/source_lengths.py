"""How long the videos of a source are, from the headers of a few."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import av

from animatediff.data.quarantine import VideoError
from animatediff.data.sources.fetching.open_file import open_video_file

_PARALLEL = 8
_USUAL_FPS = 24.0


class SourceLengths(NamedTuple):
    """What the headers say, in the mean."""

    num_read: int
    """Videos whose header could be read."""
    mean_s: float
    """Seconds of a video."""
    mean_pixels: float
    """Pixels of all frames of a video together."""


def estimate_lengths(uris: Sequence[str], *, trusted: bool) -> SourceLengths | None:
    """Return how long videos are by what their headers say; None where none can be read.

    Args:
        uris: of a few videos.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.
    """
    with ThreadPoolExecutor(_PARALLEL) as pool:
        found = [length for length in pool.map(lambda uri: _length(uri, trusted=trusted), uris) if length is not None]
    if not found:
        return None
    seconds, pixels = zip(*found, strict=True)
    return SourceLengths(len(found), sum(seconds) / len(found), sum(pixels) / len(found))


def _length(uri: str, *, trusted: bool) -> tuple[float, float] | None:
    """(seconds, pixels of all frames) of a video; None where its header does not tell."""
    try:
        with open_video_file(uri, trusted=trusted) as file, av.open(file) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None or not container.duration:
                return None
            seconds = container.duration / av.time_base
            rate = float(stream.guessed_rate or _USUAL_FPS)
            return seconds, seconds * rate * stream.codec_context.width * stream.codec_context.height
    except (VideoError, av.error.FFmpegError):
        return None
