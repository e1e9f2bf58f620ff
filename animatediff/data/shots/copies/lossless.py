"""The frames of a shot encoded anew, without loss: for what no packets can be taken of."""

import io
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice
from typing import Any, BinaryIO, NamedTuple

import av

from animatediff.data.decoding.colours import Colours, read_colours
from animatediff.data.decoding.sizes import is_mirrored
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies.packets import SEEKS_S, open_before, tells_order_alone

_CODEC = "ffv1"
_FORMATS = frozenset(f.name for f in av.Codec(_CODEC, "w").video_formats or ())
_EQUALS = {"nv12": "yuv420p", "nv16": "yuv422p", "p010le": "yuv420p10le", "pal8": "bgra", "rgba": "bgra"}
"""Formats of pixels that FFV1 has not, and others that hold the same."""
_RGB = "bgr0"
_USUAL_FPS = 25
_LOOKED_AT = 100


class _TimedFrame(NamedTuple):
    pts: int
    frame: Any


class _Times(NamedTuple):
    """When the frames of a file are shown that do not tell it."""

    pts: list[int]
    """Ascending."""
    tick_s: Fraction
    """Seconds of a timestamp's unit."""


class _Source(NamedTuple):
    stream: Any
    tags: Colours
    """The container's."""
    tick_s: Fraction


def encode_lossless(
    file: BinaryIO, start_pts: int, last_pts: int, *, on_encode: Callable[[float], None] = lambda length_s: None
) -> bytes:
    """Return the frames from one timestamp to another as FFV1 in MP4, the first at time 0; see `copy_shot`.

    Raises:
        VideoError: they cannot be decoded.
        av.error.FFmpegError: the file cannot be read.
    """
    with open_before(file, start_pts, None) as (container, stream):
        are_untimed = _is_untimed(container, stream)
        on_encode((container.duration or 0) / av.time_base)
    for seek_s in () if are_untimed else SEEKS_S:
        if copy := _copy(file, start_pts, last_pts, seek_s=seek_s, times=None):
            return copy
    with open_before(file, start_pts, None) as (container, stream):
        times = _times(container, stream)
    if times is not None and (copy := _copy(file, start_pts, last_pts, seek_s=None, times=times)):
        return copy
    detail = f"the frame at {start_pts} does not decode, whichever key frame is begun with"
    raise VideoError("decode", Reason.DECODE_ERROR, detail)


def _is_untimed(container: Any, stream: Any) -> bool:
    """Whether packets do not tell when their frames are shown, by the first ones."""
    first = islice(container.demux(stream), _LOOKED_AT)
    return tells_order_alone(container, stream) or any(packet.pts is None for packet in first if packet.size)


def _copy(file: BinaryIO, start_pts: int, last_pts: int, *, seek_s: float | None, times: _Times | None) -> bytes | None:
    """Return the frames, decoded from `seek_s` seconds before the first one on; None where that one does not decode."""
    with open_before(file, start_pts, seek_s) as (container, stream):
        context = stream.codec_context
        tags = Colours(context.colorspace, context.color_primaries, context.color_trc)  # decoding overwrites them
        frames = (timed for timed in _frames(container.demux(stream), times) if timed.pts >= start_pts)
        first = next(frames, None)
        if first is None or first.pts != start_pts or first.frame.is_corrupt:
            return None
        tick_s = times.tick_s if times is not None else Fraction(stream.time_base)
        return _encode(_up_to(last_pts, chain([first], frames)), _Source(stream, tags, tick_s))


def _times(container: Any, stream: Any) -> _Times | None:
    """Return when the frames of a file are shown where not all packets tell it; None where they do.

    Where one has no timestamp the frames are numbered, as `probe` numbers them.
    """
    begun, pts = False, []
    for packet in container.demux(stream):
        begun |= packet.is_keyframe
        if begun and packet.size:
            pts.append(packet.pts)
    if None in pts:
        return _Times(list(range(len(pts))), 1 / Fraction(stream.guessed_rate or _USUAL_FPS))
    return _Times(sorted(pts), Fraction(stream.time_base)) if tells_order_alone(container, stream) else None


def _frames(packets: Iterable[Any], times: _Times | None) -> Iterator[_TimedFrame]:
    """Yield the frames that decode; with `times`, the first at the first of these, and so on."""
    begun, number = False, 0
    for packet in packets:
        begun |= packet.is_keyframe
        for frame in _decode(packet) if begun or not packet.size else ():
            if times is None and frame.pts is not None:
                yield _TimedFrame(frame.pts, frame)
            elif times is not None and number < len(times.pts):
                yield _TimedFrame(times.pts[number], frame)
            number += 1


def _decode(packet: Any) -> list[Any]:
    try:
        frames: list[Any] = packet.decode()
    except av.error.InvalidDataError:
        return []
    return frames


def _up_to(last_pts: int, frames: Iterable[_TimedFrame]) -> Iterator[_TimedFrame]:
    """Yield the frames up to the last one of the shot, each later than the one before.

    Raises:
        VideoError: the last one is not among them.
    """
    pts = None
    for timed in frames:
        if timed.pts > last_pts:
            break
        if pts is None or timed.pts > pts:
            pts = timed.pts
            yield timed
        if pts == last_pts:
            return
    raise VideoError("decode", Reason.DECODE_ERROR, f"the frame at {last_pts} does not decode")


def _encode(frames: Iterable[_TimedFrame], source: _Source) -> bytes:
    buffer = io.BytesIO()
    ticks = str(source.tick_s.denominator)
    options = {"video_track_timescale": ticks, "movie_timescale": ticks}
    with av.open(buffer, "w", format="mp4", options=options) as output:
        stream, first = None, None
        for pts, frame in frames:
            if first is None or stream is None:
                first = _TimedFrame(pts, frame)
                stream = _add_stream(output, source, frame)
            if (frame.width, frame.height) != (first.frame.width, first.frame.height):
                detail = f"a frame of {frame.width}x{frame.height} where {stream.width}x{stream.height} are told"
                raise VideoError("decode", Reason.SIZE_CHANGES, detail)
            same = frame if frame.format.name == stream.pix_fmt else frame.reformat(format=stream.pix_fmt)
            same.pts, same.time_base = pts - first.pts, source.tick_s
            output.mux(stream.encode(same))
        if stream is not None:
            output.mux(stream.encode())
    return buffer.getvalue()


def _add_stream(output: Any, source: _Source, frame: Any) -> Any:
    """Return a stream of the same size, colours and rotation as the source, whose first frame is given."""
    video = source.stream
    stream = output.add_stream(_CODEC, rate=video.guessed_rate or _USUAL_FPS, options={"level": "3"})
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, _format_of(frame.format.name)
    context = stream.codec_context
    context.time_base = source.tick_s
    colours = read_colours(frame, source.tags, video.codec_context.codec_tag)
    context.colorspace, context.color_primaries, context.color_trc = colours.in_full
    context.color_range = frame.color_range
    if video.sample_aspect_ratio:
        context.sample_aspect_ratio = video.sample_aspect_ratio
    if is_mirrored(frame):  # which PyAV does behind the rotation: that is turned the other way, then
        stream.set_display_rotation(-frame.rotation, vflip=True)
    elif frame.rotation:
        stream.set_display_rotation(frame.rotation)
    return stream


def _format_of(pixels: str) -> str:
    """Return the format of FFV1 that holds all of what another holds."""
    name = _EQUALS.get(pixels, pixels.replace("yuvj", "yuv"))
    return name if name in _FORMATS else _RGB
