"""Fields: interlaced frames, which show two moments in alternate lines, become progressive ones."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import av

# The odd one of FFmpeg's AVFieldOrder: 0 is unknown, 1 progressive, the others are interlaced.
_PROGRESSIVE = 1


def is_interlaced(frame: Any, field_order: int) -> bool:
    """Whether a video is interlaced, by its first frame (None where none decodes) or its header."""
    return field_order > _PROGRESSIVE or (frame is not None and frame.interlaced_frame)


def progressive(frames: Iterable[Any]) -> Iterator[Any]:
    """Deinterlace the frames that are flagged as interlaced, each in its place, by FFmpeg's bwdif.

    Args:
        frames: PyAV's, in the order they are shown. None stands where some are left out: what follows has nothing to
            do with what came before.
    """
    graph, stamps = None, deque[int | None]()
    for frame in frames:
        if graph is not None and (frame is None or not _is_like(frame, graph[1])):
            yield from _pull(graph[0], stamps, last=True)
            graph = None
        if frame is None:
            continue
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None:
            graph = _bwdif(frame), frame
        stamps.append(frame.pts)
        graph[0].push(frame)
        yield from _pull(graph[0], stamps)
    if graph is not None:
        yield from _pull(graph[0], stamps, last=True)


def _is_like(frame: Any, other: Any) -> bool:
    return (frame.width, frame.height, frame.format.name) == (other.width, other.height, other.format.name)


def _bwdif(frame: Any) -> Any:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base, name="in"
    )
    deinterlace, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    source.link_to(deinterlace)
    deinterlace.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: Any, stamps: deque[int | None], *, last: bool = False) -> Iterator[Any]:
    """What the filter has ready, under the timestamps of the frames it was given: it counts in others."""
    if last:
        graph.push(None)
    while stamps:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            break
        frame.pts = stamps.popleft()
        yield frame
