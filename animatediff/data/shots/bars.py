"""Bars: which part of a video's picture is never more than a plain bar above and below, or left and right of it.

They are told from frames that lie over the whole file, so that a dark scene, black, or a stretch that is boxed in a
picture that is not, passes for none.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np
from PIL import Image

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding.sizes import decode_packet
from animatediff.data.decoding.videos import VideoInfo, open_video
from animatediff.data.shots.pictures import StoredBox

_FRAMES = 40
_APART = 12
"""Frames between those that are looked at where there are too few key frames."""
_PATIENCE = 100
"""Packets behind a key frame without any frame: something is damaged there, and the rest need not be read for it."""
_BLOCKS = 32
"""Means along a line of pixels that stand for it."""
_TOLERANCE = 12
"""Levels of 255 by which a bar's pixels may differ."""
_LEAST_BRIGHT = 40
"""Levels of 255 that a fiftieth of a frame reaches which is not dark."""
_FILLED = 0.5
"""Share of a line off the bar's level that is a picture, and no subtitle or logo on the bar."""
_LEAST_FILLED = 0.05
"""Share of frames with a picture there from which a line is no bar."""
_LEAST_FRAMES = 3
_OUTSIDE = 0.15
"""Most of a line outside a bar's edge that is off its level where the line inside is filled: a bar ends straight."""
_FULL = 0.6
"""A line at the edge that differs less than this from the bar, as a share of how the picture behind it does, is mixed
with the bar by a resize or a codec."""
_MIXED = 3
_BLACK = 32
_NARROW = 0.04
"""Share of a side that a bar without one opposite may take, as the edges of old recordings."""
_UNEVEN = 3
_LEAST_LEFT = 0.25


def find_bars(data: bytes | BinaryIO, info: VideoInfo) -> StoredBox | None:
    """Return the part of the frames that is no bar, to the pixel; None where there are no bars.

    Args:
        data: the file's bytes, or a seekable file, of which stretches are read.
        info: what `probe` says of it.
    """
    width, height = info.stored
    profiles = [_profiles(frame) for frame in _sample(data, info) if (frame.width, frame.height) == info.stored]
    profiles = [(rows, columns) for rows, columns in profiles if np.quantile(rows, 0.98) >= _LEAST_BRIGHT]
    if len(profiles) < _LEAST_FRAMES:
        return None
    rows, columns = (np.stack(of_one) for of_one in zip(*profiles, strict=True))  # (f h blocks), (f w blocks)
    # Columns again behind the rows, since bars on two sides hide how full a line of the others is.
    left, right = _inside(columns)
    top, bottom = _inside(rows[:, :, _blocks(left, right, width)])
    left, right = _inside(columns[:, :, _blocks(top, bottom, height)])
    box = StoredBox(left, top, right - left, bottom - top)
    return None if (box.w, box.h) == (width, height) else box


def displayed_box(box: StoredBox, info: VideoInfo) -> CropBox:
    """Return the same part in pixels of the picture as it is displayed; parts of pixels are left out."""
    width, height = (info.height, info.width) if info.rotation % 2 else (info.width, info.height)
    left, right = _whole(box.x, box.x + box.w, width, info.stored[0])
    top, bottom = _whole(box.y, box.y + box.h, height, info.stored[1])
    crop = CropBox(left, height - bottom if info.is_mirrored else top, right - left, bottom - top)
    for _ in range(info.rotation):  # counterclockwise
        crop, width, height = CropBox(crop.y, width - crop.x - crop.w, crop.h, crop.w), height, width
    return crop


def _whole(start: int, end: int, size: int, stored: int) -> tuple[int, int]:
    """Return the pixels that lie wholly between two places of a side that is shown with `size` pixels."""
    return -(-start * size // stored), end * size // stored


def _sample(data: bytes | BinaryIO, info: VideoInfo) -> Iterator[Any]:
    """Yield frames that lie over the file: key frames, and where they are few, those that follow."""
    keys = info.keyframe_pts
    chosen = keys[np.linspace(0, len(keys) - 1, min(_FRAMES, len(keys))).round().astype(int)] if len(keys) else [None]
    each = -(-_FRAMES // len(chosen))
    with open_video(data) as container:
        stream = container.streams[info.stream]
        stream.codec_context.thread_count = 1
        for number, key in enumerate(chosen):
            try:
                if number:
                    container.seek(int(key), stream=stream)
                behind = chosen[number + 1] if number + 1 < len(chosen) else None
                yield from _some(container.demux(stream), each, behind)
            except av.error.FFmpegError:
                return  # a format that cannot be sought in; the frames so far tell enough


def _some(packets: Any, most: int, behind: int | None) -> Iterator[Any]:
    """Yield every so many frames, until there are enough or the next key frame is reached."""
    number = 0
    for count, packet in enumerate(packets):
        is_behind = behind is not None and packet.pts is not None and packet.pts >= behind
        if is_behind if number else count > _PATIENCE:
            return
        for frame in decode_packet(packet):
            if number % _APART == 0:
                yield frame
            number += 1
            if number > (most - 1) * _APART:
                return


def _profiles(frame: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (h blocks) and (w blocks) uint8: the brightness along each row and each column."""
    grey = Image.fromarray(frame.reformat(format="gray", threads=1).to_ndarray())
    rows = grey.resize((_BLOCKS, grey.height), Image.Resampling.BOX)
    columns = grey.resize((grey.width, _BLOCKS), Image.Resampling.BOX)
    return np.asarray(rows), np.asarray(columns).T


def _blocks(start: int, end: int, size: int) -> slice:
    """Return the blocks that lie wholly between two places."""
    return slice(-(-start * _BLOCKS // size), max(end * _BLOCKS // size, -(-start * _BLOCKS // size) + 1))


def _inside(lines: np.ndarray) -> tuple[int, int]:
    """Return the first line that is no bar, and the one behind the last.

    Args:
        lines: (f n blocks) uint8.
    """
    size = lines.shape[1]
    start, end = _breadth(lines), _breadth(lines[:, ::-1])
    levels = np.median(lines[:, 0]), np.median(lines[:, -1])
    if not start or not end:
        level = levels[0] if start else levels[1]
        is_bar = start + end <= _NARROW * size and level <= _BLACK
    elif max(levels) <= _BLACK:
        is_bar = max(start, end) <= _UNEVEN * min(start, end)
    else:
        is_bar = abs(start - end) <= 2 and abs(levels[0] - levels[1]) <= _TOLERANCE
    return (start, size - end) if is_bar and size - start - end >= _LEAST_LEFT * size else (0, size)


def _breadth(lines: np.ndarray) -> int:
    """Return the number of lines in the bar at the start of (f n blocks)."""
    level = float(np.median(lines[:, 0]))
    distance = np.abs(lines.astype(np.int16) - round(level))
    off = (distance > _TOLERANCE).mean(2)  # (f n)
    is_filled = off > _FILLED
    is_picture = is_filled.mean(0) > _LEAST_FILLED
    breadth = int(np.argmax(is_picture))
    if not breadth:
        return 0
    of_frames = is_filled[:, breadth]
    if off[of_frames, max(0, breadth - 2)].mean() > _OUTSIDE:
        return 0
    contrast = distance[of_frames].mean((0, 2))
    for _ in range(_MIXED):
        if contrast[breadth] >= _FULL * contrast[min(breadth + 2, len(contrast) - 1)]:
            break
        breadth += 1
    return breadth
