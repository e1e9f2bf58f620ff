"""Timelines: which of a file's packets are frames that are seen, and when.

A decoder gives each frame the timestamp of its packet, so a frame is found by it whatever was decoded before. Where
timestamps occur twice or start again, the packets get others before they are decoded (`Timeline.packet_pts`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from animatediff.data.quarantine import Reason, VideoError

_MAX_STAMP = 2**61
"""Ticks, of which two have a distance that 64 bits hold. Today's date in nanoseconds is less."""


class Packet(NamedTuple):
    """What a container says of a packet, without its data."""

    pts: int | None
    dts: int | None
    size: int
    is_keyframe: bool
    is_hidden: bool
    """By an edit list."""
    is_corrupt: bool = False


@dataclass(frozen=True)
class Timeline:
    """The frames of a video that can be seen."""

    pts: np.ndarray
    """(n,) int64 in the time base, ascending."""
    packet_bytes: np.ndarray
    """(n,) int64 bytes of each frame's packet."""
    keyframe_pts: np.ndarray
    """(m,) int64 timestamps of the key frames, ascending."""
    origin: int
    """Timestamp of the first frame that the container lists, whether it decodes or not."""
    packet_pts: np.ndarray
    """(p,) int64 timestamps of the packets, in the file's order: no two alike among those of `pts`."""
    are_pts_replaced: bool
    """Whether `packet_pts` differ from the file's, so that packets must get them before they are decoded."""
    has_undecodable_start: bool
    """Whether frames at the start are listed that cannot be decoded."""
    packets: np.ndarray
    """(n,) which of the packets each frame is."""


def describe(packet: Any) -> Packet:
    """Return what is kept of PyAV's packet: not its data, which would hold the file in memory twice."""
    return Packet(packet.pts, packet.dts, packet.size, packet.is_keyframe, packet.is_discard, packet.is_corrupt)


def read_timeline(packets: Sequence[Packet], first_pts: int | None) -> Timeline:
    """Return the frames that can be seen: from the first that decodes, each at a time of its own.

    Args:
        packets: at least one, in the file's order.
        first_pts: timestamp of the first frame that decodes; None where that is not known.

    Raises:
        VideoError: no frame is left, or a timestamp cannot be reckoned with.
    """
    if any(abs(stamp or 0) > _MAX_STAMP for p in packets for stamp in (p.pts, p.dts)):
        raise VideoError("probe", Reason.BAD_TIMESTAMPS, f"a timestamp is beyond {_MAX_STAMP} ticks")
    packet_pts, kept = _unique_pts(packets)
    shown = kept & ~np.array([p.is_hidden for p in packets])
    is_key = np.array([p.is_keyframe for p in packets])
    key = int(np.argmax(is_key))
    listed = shown
    # What precedes the first key frame in the file refers to frames that are missing, and so does what is shown ahead
    # of the first frame that decodes.
    shown = shown & (np.arange(len(packets)) >= key)
    if first_pts is not None:
        first = next((i for i in range(key, len(packets)) if packets[i].pts == first_pts), key)
        shown &= packet_pts >= packet_pts[first]
    if not shown.any():
        raise VideoError("probe", Reason.DECODE_ERROR, "none of the frames is to be shown")
    order = np.flatnonzero(shown)[np.argsort(packet_pts[shown], kind="stable")]
    own = np.array([-1 if p.pts is None else p.pts for p in packets])
    return Timeline(
        packet_pts[order],
        np.array([p.size for p in packets], dtype=np.int64)[order],
        np.sort(packet_pts[is_key & kept]),
        int(packet_pts[listed].min()),
        packet_pts,
        not kept.all() or not np.array_equal(own, packet_pts),
        bool(shown.sum() < listed.sum()),
        order,
    )


def _unique_pts(packets: Sequence[Packet]) -> tuple[np.ndarray, np.ndarray]:
    """Return (p,) timestamps, no two alike among those kept, and (p,) bool which packets are kept.

    A decoding time that goes back is a recording that was joined to another: it goes on where the first one ended.
    """
    if any(p.pts is None for p in packets):  # elementary streams tell the order of decoding alone
        return np.arange(len(packets)), np.ones(len(packets), bool)
    pts = np.array([p.pts for p in packets], dtype=np.int64)
    dts = np.array([p.pts if p.dts is None else p.dts for p in packets], dtype=np.int64)
    is_hidden = np.array([p.is_hidden for p in packets])
    if all(p.dts is not None for p in packets) and _starts_again(pts[~is_hidden], dts[~is_hidden]):
        steps = np.diff(dts)
        usual = max(1, int(np.median(steps)))
        # In floats, since int64 would overflow.
        if np.abs(steps.astype(float)).sum() > _MAX_STAMP:
            raise VideoError("probe", Reason.BAD_TIMESTAMPS, "its clock starts again, beyond all reckoning")
        pts = pts + np.concatenate([[0], np.cumsum(np.where(steps < 0, usual - steps, 0))])
    return _separate_equal_pts(pts, is_hidden)


def _starts_again(pts: np.ndarray, dts: np.ndarray) -> bool:
    """Whether the clock of frames that are seen goes back, and not only where an edit list shows another part next.

    That part is decoded from a key frame before it, and its timestamps already lie behind those before.
    """
    if len(pts) < 2:
        return False
    latest, earliest = np.maximum.accumulate(pts), np.minimum.accumulate(pts[::-1])[::-1]
    return bool(((np.diff(dts) < 0) & (earliest[1:] <= latest[:-1])).any())


def _separate_equal_pts(pts: np.ndarray, is_hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spread frames with one timestamp evenly over the gap to the next one; without a gap keep only the first.

    Where frames are stored in another order than they are shown, it is not known which one is later: the first is kept,
    of those that are seen if there are any.
    """
    order = np.lexsort((is_hidden, pts))
    sorted_pts = pts[order]
    distinct, first, number = np.unique(sorted_pts, return_index=True, return_counts=True)
    kept = np.zeros(len(pts), bool)
    kept[order[first]] = True
    if kept.all():
        return pts, kept
    packet_pts = pts.copy()
    if (np.diff(pts) >= 0).all() and len(distinct) > 2:
        usual = float(np.median(np.diff(distinct)))
        for at in np.flatnonzero(number[:-1] > 1):
            gap = int(distinct[at + 1] - distinct[at])
            if gap >= usual * (number[at] - 0.5):
                group = order[first[at] : first[at] + number[at]]
                packet_pts[group] = distinct[at] + gap * np.arange(number[at]) // number[at]
                kept[group] = True
    # Packets that are dropped get timestamps before all others, which no clip asks for.
    packet_pts[~kept] = min(0, int(pts.min())) - 1 - np.arange((~kept).sum())
    return packet_pts, kept
