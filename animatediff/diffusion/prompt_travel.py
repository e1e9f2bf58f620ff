"""Prompts that change over a clip: from the embeddings of prompts at key frames to one embedding a frame."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from animatediff.diffusion.travel import Travel

# Two embeddings that are nearly parallel have no plane to turn in; the customary bound.
_PARALLEL = 0.9995


class _Place(NamedTuple):
    """Where a frame lies between two keys."""

    key: int
    next_key: int
    share: float
    """Of the next key's prompt, in [0, 1); 0 is the key's own alone."""


def embeddings_of_frames(keys: Mapping[int, Tensor], num_frames: int, travel: Travel, *, loop: bool) -> Tensor:
    """Return the text embeddings of each frame.

    At a key it is the key's own, bit for bit. Before the first key and behind the last one their prompts are held; with
    `loop` the last one travels to the first around the clip's end.

    Args:
        keys: (n d) by frame, at least one, all in [0, num_frames).
        num_frames: f.
        travel: how it goes from one to the next.
        loop: whether the last frame goes over into the first.

    Returns:
        (f n d), computed in float32, in the keys' precision.
    """
    frames = sorted(keys)
    between = _slerp if travel.interpolation == "slerp" else _lerp
    found = []
    for frame in range(num_frames):
        place = _place(frames, frame, num_frames, dwell=travel.dwell, loop=loop)
        start, end = keys[place.key], keys[place.next_key]
        found.append(start if place.share == 0 else between(start.float(), end.float(), place.share).to(start.dtype))
    return torch.stack(found)


def _place(keys: Sequence[int], frame: int, num_frames: int, *, dwell: float, loop: bool) -> _Place:
    before, after = [key for key in keys if key <= frame], [key for key in keys if key > frame]
    if not loop and not (before and after):
        held = before[-1] if before else after[0]
        return _Place(held, held, 0.0)
    # In a loop the clips before and behind this one are the same.
    start = before[-1] if before else keys[-1] - num_frames
    end = after[0] if after else keys[0] + num_frames
    held_until = min(start + round((end - start) * dwell), end - 1)
    share = max(0, frame - held_until) / (end - held_until)
    return _Place(start % num_frames, end % num_frames, share)


def _lerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    return start.lerp(end, share)


def _slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    cos = torch.dot(start.flatten() / start.norm(), end.flatten() / end.norm())
    if cos.abs() > _PARALLEL:
        return _lerp(start, end, share)
    angle = cos.acos()
    return (torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end) / torch.sin(angle)
