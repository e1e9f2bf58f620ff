"""One pass over a video of any length: its shots, and what is to be known of each. No frame is kept for long."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from animatediff.data.clips.rates import check_times
from animatediff.data.decoding.stream import stream_frames
from animatediff.data.decoding.videos import VideoInfo, probe
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.bars import displayed_box, find_bars
from animatediff.data.shots.config import ShotConfig
from animatediff.data.shots.describe import describe_take
from animatediff.data.shots.detectors import Border, BorderDetector, load_detector
from animatediff.data.shots.pictures import Shrinker, StoredBox
from animatediff.data.shots.rules import Take, TakeRules
from animatediff.data.shots.samples import Samples
from animatediff.data.shots.shot import DAMAGED, ScannedVideo, Shot
from animatediff.data.sources.limits import MAX_PIXELS

_BORDER_FPS = 30
"""About so many frames a second are searched for borders: of 60 every second one, or a dissolve would be too slow."""
_SAMPLE_FPS = 8
_SAMPLE_SIDE = 256
"""Pixels of a sample's longest side."""


def scan_video(
    data: bytes | BinaryIO,
    config: ShotConfig,
    *,
    max_pixels: int = MAX_PIXELS,
    on_header: Callable[[VideoInfo], None] = lambda info: None,
) -> ScannedVideo:
    """Cut a video into its shots.

    Args:
        data: the file's bytes, or a seekable file: it is read once for its packets, and once to decode it.
        config: how to cut.
        max_pixels: of a frame.
        on_header: told what the container says before frames are decoded.

    Raises:
        VideoError: the video cannot be used. What follows the last frame that decodes is no reason for that.
        UserError: the detector cannot be loaded.
    """
    detector = load_detector(config.detector)
    info = _with_prevailing_size(probe(data, max_pixels=max_pixels, keep_damaged=True))
    check_times(info.timestamps, info.fps)
    on_header(info)
    bars = find_bars(data, info) if config.crop_bars else None
    scan = _Scan(info, config, detector, bars)
    shots = [shot for number, frame in _sound_frames(data, info) for shot in scan.add(number, frame)]
    shots += scan.finish()
    return ScannedVideo(
        width=info.width,
        height=info.height,
        fps=info.fps,
        time_base=str(info.time_base),
        num_frames=len(info.pts),
        duration_s=info.duration_s,
        crop=displayed_box(bars, info) if bars else None,
        shots=tuple(shots),
    )


def _with_prevailing_size(info: VideoInfo) -> VideoInfo:
    """Return the facts with the size that most frames have."""
    firsts = [span.first_frame for span in info.resolution_spans]
    lengths = np.diff([*firsts, len(info.pts)])
    return info.with_size_of_span(int(np.argmax(lengths)))


def _sound_frames(data: bytes | BinaryIO, info: VideoInfo) -> Iterator[tuple[int, Any]]:
    """Yield the frames that decode and are not damaged, as far as the container or the decoder tells it.

    A decoder marks the first picture alone of those that it has to guess: the others last up to the next key frame.
    """
    spoiled_before = int(info.pts[0])
    for number, frame in stream_frames(data, info):
        pts = int(info.pts[number])
        if frame.is_corrupt:
            later = info.keyframe_pts[info.keyframe_pts > pts]
            spoiled_before = int(later[0]) if len(later) else int(info.pts[-1]) + 1
        if pts >= spoiled_before and not info.is_damaged[number]:
            yield number, frame


class _Scan:
    """The frames that have gone by, as far as their shots are not told yet."""

    def __init__(self, info: VideoInfo, config: ShotConfig, detector: BorderDetector, bars: StoredBox | None) -> None:
        self._info, self._config, self._detector = info, config, detector
        self._stride = max(1, round(info.fps / _BORDER_FPS))
        self._sample_step = max(1, round(info.fps / _SAMPLE_FPS))
        self._rules = TakeRules(config, info.timestamps, margin_unit=self._stride)

        def shrinker(height: int, width: int) -> Shrinker:
            return Shrinker(height=height, width=width, crop=bars, info=info)

        self._to_picture = shrinker(detector.height, detector.width)
        height, width = _sample_size(info, bars)
        self._to_sample, self._samples = shrinker(height, width), Samples(height=height, width=width)
        self._next = 0
        self._gaps: list[Border] = []
        """Frames that are damaged or do not decode, and changes of size."""
        self._sizes: list[tuple[int, tuple[int, int]]] = []
        """From which frame on frames have which (width, height) as they are decoded."""

    def add(self, number: int, frame: Any) -> Iterator[Shot]:
        """Take the next frame that decodes, and yield the shots that are sure now."""
        self._note_gaps(number, (frame.width, frame.height))
        if number % self._sample_step == 0:
            self._samples.append(number, self._to_sample.picture(frame))
        picture = None
        # The detector counts frames: one that is missing looks like the one behind it.
        for counted in range(self._next, number + 1):
            if counted % self._stride == 0:
                picture = self._to_picture.picture(frame) if picture is None else picture
                yield from self._tell(self._detector.add(picture))
        self._next = number + 1

    def finish(self) -> Iterator[Shot]:
        """Yield the shots that are left."""
        if not self._next:
            raise VideoError("decode", Reason.DECODE_ERROR, f"none of the {len(self._info.pts)} frames decodes")
        yield from self._tell(self._detector.finish(), is_end=True)
        if self._next < len(self._info.pts):
            yield self._damaged(self._next, len(self._info.pts))

    def _note_gaps(self, number: int, size: tuple[int, int]) -> None:
        if number > self._next:
            self._gaps.append(Border(self._next, number, "cut", 1.0))
        if not self._sizes or size != self._sizes[-1][1]:
            if self._sizes:
                self._gaps.append(Border(number, number, "cut", 1.0))
            self._sizes.append((number, size))

    def _tell(self, found: Iterable[Border], *, is_end: bool = False) -> Iterator[Shot]:
        stride = self._stride
        # A border between two frames that were looked at may be at any frame behind the first of them.
        borders = [b._replace(first=max(0, (b.first - 1) * stride + 1), last=b.last * stride) for b in found]
        settled = self._next if is_end else max(0, (self._detector.settled - 1) * stride + 1)
        gaps = [gap for gap in self._gaps if is_end or gap.first < settled]
        self._gaps = self._gaps[len(gaps) :]
        takes = list(self._rules.add(sorted(borders + gaps), settled))
        if is_end:
            takes += self._rules.finish(self._next)
        shots = [self._describe(take, self._reason(take)) for take in takes]
        shots += [self._damaged(gap.first, gap.last) for gap in gaps if gap.last > gap.first]
        yield from sorted(shots, key=lambda shot: shot.first)
        self._samples.drop_before(self._rules.first)

    def _damaged(self, first: int, end: int) -> Shot:
        return self._describe(Take(first, end, "cut", "cut", 1.0), DAMAGED)

    def _describe(self, take: Take, reason: str) -> Shot:
        return describe_take(take, self._info, self._samples.between(take.first, take.end), reason=reason)

    def _reason(self, take: Take) -> str:
        """Return why a take cannot be used whatever it shows."""
        size = self._sizes[bisect_right(self._sizes, take.first, key=lambda one: one[0]) - 1][1]
        if size != self._info.stored:
            return Reason.SIZE_CHANGES.value
        timestamps = self._info.timestamps
        # The last frame lasts as long as the others.
        length_s = timestamps[take.end - 1] - timestamps[take.first] + self._info.rate.frame_s
        return Reason.TOO_SHORT.value if length_s < self._config.min_s else ""


def _sample_size(info: VideoInfo, bars: StoredBox | None) -> tuple[int, int]:
    """Return the (height, width) of samples: never larger than the picture."""
    _, _, width, height = displayed_box(bars, info) if bars else (0, 0, info.width, info.height)
    scale = min(1.0, _SAMPLE_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
