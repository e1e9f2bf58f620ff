"""Fields: interlaced frames, which show two moments in alternate lines, become progressive ones."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import av

# Of FFmpeg's AVFieldOrder: 0 is unknown, those above are interlaced.
_PROGRESSIVE = 1
_NOT_SHOWN = object()


def is_interlaced(frame: Any, field_order: int) -> bool:
    """Whether a video is interlaced, by its first frame (None where none decodes) or its header."""
    return field_order > _PROGRESSIVE or (frame is not None and frame.interlaced_frame)


def progressive(frames: Iterable[Any]) -> Iterator[Any]:
    """Deinterlace the frames that are flagged as interlaced, each in its place, by FFmpeg's bwdif.

    Args:
        frames: PyAV's, in the order they are shown. None stands where some are left out: what follows has nothing to
            do with what came before.
    """
    run: list[Any] = []  # its first frame waits for the second
    graph, stamps = None, deque[Any]()
    for frame in frames:
        if run and (frame is None or not _is_like(frame, run[0])):
            yield from _end(graph, run, stamps)
            run, graph = [], None
        if frame is None:
            continue
        if not run and not frame.interlaced_frame:
            yield frame
            continue
        run = [*run, frame][:2]
        if len(run) == 1:
            continue
        if graph is None:
            graph = _bwdif(frame)
            # Without one before it, the first frame would pass for a still picture and keep its combs.
            _push(graph, frame, stamps, _NOT_SHOWN)
            _push(graph, run[0], stamps, run[0].pts)
        _push(graph, frame, stamps, frame.pts)
        yield from _pull(graph, stamps)
    if run:
        yield from _end(graph, run, stamps)


def _push(graph: Any, frame: Any, stamps: deque[Any], stamp: Any) -> None:
    stamps.append(stamp)
    graph.push(frame)


def _end(graph: Any, run: list[Any], stamps: deque[Any]) -> Iterator[Any]:
    """Yield what is left when a run of frames ends."""
    if graph is None:
        graph = _bwdif(run[0])
        _push(graph, run[0], stamps, run[0].pts)
    graph.push(None)
    yield from _pull(graph, stamps)


def _is_like(frame: Any, other: Any) -> bool:
    return (frame.width, frame.height, frame.format.name) == (other.width, other.height, other.format.name)


def _bwdif(frame: Any) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base, name="in"
    )
    deinterlace, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    source.link_to(deinterlace)
    deinterlace.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: Any, stamps: deque[Any]) -> Iterator[Any]:
    """Yield what the filter has ready, under the timestamps of the frames it was given: it counts in others."""
    while stamps:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        stamp = stamps.popleft()
        if stamp is not _NOT_SHOWN:
            frame.pts = stamp
            yield frame
