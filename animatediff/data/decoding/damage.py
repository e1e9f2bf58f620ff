"""Damage: frames that a container promises and has not, packets that it calls corrupt, and what these spoil."""

from collections.abc import Sequence

import numpy as np

from animatediff.data.decoding.timeline import Packet


def num_missing(packets: Sequence[Packet], container: str, *, promised: int, indexed: int) -> int:
    """Return how many frames a file lacks of those that it says it has.

    An MP4's header counts what an edit list leaves out, which its index does not. An AVI's counts a frame that stands
    for the one before and has no packet: only the index leaves it out, or, where a file breaks off ahead of it, the
    clock, whose ticks are frames.

    Args:
        packets: all of the stream, in the file's order.
        container: FFmpeg's name of the format.
        promised: frames by the stream's header; 0 where it does not say.
        indexed: entries of the stream's index before a packet was read. Probing makes one, where there is no index.
    """
    if container == "avi" and indexed <= 1:
        stamps = [packet.dts for packet in packets if packet.dts is not None]
        promised -= max(0, max(stamps, default=0) - min(stamps, default=0) + 1 - len(packets))
    elif container == "avi" or container.startswith("mov,"):
        promised = min(promised, indexed)
    return max(0, promised - len(packets))


def spoiled_packets(packets: Sequence[Packet]) -> np.ndarray:
    """(p,) bool: which packets are corrupt, or may be decoded from a picture that is.

    Damage spoils all from the key frame before it to the next one, and what is stored behind that and shown before it
    (open GOPs). Where FFmpeg meets damage between two pictures, it may mark either: at a key frame, both sides are bad.

    Args:
        packets: all of the stream, in the file's order.
    """
    is_corrupt = np.array([packet.is_corrupt for packet in packets], bool)
    if not is_corrupt.any():
        return is_corrupt
    near = is_corrupt.copy()
    near[1:] |= is_corrupt[:-1]
    near[:-1] |= is_corrupt[1:]
    groups = np.cumsum([packet.is_keyframe for packet in packets])
    is_bad = np.bincount(groups, weights=near) > 0
    spoiled = is_bad[groups]
    shown_from: int | None = None
    for i, packet in enumerate(packets):
        if packet.is_keyframe:
            shown_from = packet.pts if i and spoiled[i - 1] and not spoiled[i] else None
        if shown_from is not None and (packet.pts is None or packet.pts < shown_from):
            spoiled[i] = True
    return spoiled


def without_times_lost(packets: Sequence[Packet], spoiled: np.ndarray) -> list[Packet]:
    """Return the packets with those hidden that damage took the timestamp of; the others keep theirs.

    Where no packet at all has one, none was lost.
    """
    known = [packet.pts for packet in packets if packet.pts is not None]
    if not known:
        return list(packets)
    return [
        packet._replace(pts=min(known), is_keyframe=False, is_hidden=True) if packet.pts is None and is_bad else packet
        for packet, is_bad in zip(packets, spoiled.tolist(), strict=True)
    ]
