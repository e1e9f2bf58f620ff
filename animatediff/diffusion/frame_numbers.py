"""Frames of a clip by number, those below 0 counted from the end. Configs are read before torch is imported."""

from collections.abc import Sequence


def frames_in_clip(frames: Sequence[int], num_frames: int) -> list[int]:
    """Return frames counted from 0.

    Args:
        frames: those below 0 are counted from the end.
        num_frames: of the clip.

    Raises:
        ValueError: one is not in the clip, or is named twice.
    """
    for frame in frames:
        if not -num_frames <= frame < num_frames:
            raise ValueError(
                f"there is no frame {frame} in a clip of {num_frames}: they are 0 to {num_frames - 1}, "
                f"or -1 to {-num_frames} from the end"
            )
    found = [frame % num_frames for frame in frames]
    if twice := [frame for frame, place in zip(frames, found, strict=True) if found.count(place) > 1]:
        raise ValueError(f"frames {', '.join(map(str, twice))} of a clip of {num_frames} are the same one")
    return found
