"""Context windows: clips longer than a motion module sees at a time."""

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from animatediff.config import Config


class Context(Config):
    """Overlapping windows of frames."""

    length: int = Field(16, ge=2)
    """Frames of a window; motion modules do best with what they were trained with, 16."""
    overlap: int = Field(4, ge=1)
    """Frames that a window shares with the next one."""

    @model_validator(mode="after")
    def _shorter_than_the_window(self) -> Self:
        if self.overlap >= self.length:
            raise ValueError(f"context.overlap {self.overlap} must be less than context.length {self.length}")
        return self


def windows(num_frames: int, context: Context | None, step: int, loop: bool) -> list[list[int]]:
    """The frames that the motion module sees together at a step: indices, the windows being of one length.

    From step to step the borders move, so that no frame stays at one. The first window of a clip without `loop` begins
    at its first frame, the last one ends at its last. With `loop`, windows go on from the last frame to the first; a
    clip that is one window begins somewhere else in it at each step.

    Args:
        num_frames: of the clip.
        context: None is one window.
        step: counts the denoising steps from 0.
        loop: whether the last frame goes over into the first.
    """
    length = min(num_frames, context.length if context else num_frames)
    stride = length if context is None or length == num_frames else length - context.overlap
    if loop:
        num = -(-num_frames // stride)
        # Spread evenly: a stride that does not fit the clip is a shorter one.
        shift = _spread(step) * num_frames / num
        starts = [int(shift + i * num_frames / num) for i in range(num)]
    else:
        last = num_frames - length
        shift = int(_spread(step) * stride)
        starts = sorted({0, *range(shift, last, stride), last})
    return [[(start + i) % num_frames for i in range(length)] for start in starts]


def window_shares(seen: Sequence[Sequence[int]]) -> Tensor:
    """How much of a frame's prediction each window gives: (windows length) float32, in all 1 a frame.

    A window's share falls towards its ends, where the motion module sees least of what is around a frame.
    """
    frames = torch.tensor(seen)
    length = frames.shape[1]
    weights = (torch.arange(length) + 1.0).minimum(length - torch.arange(length)).expand(len(seen), length)
    total = torch.zeros(int(frames.max()) + 1).index_add_(0, frames.flatten(), weights.flatten())
    return weights / total[frames]


def initial_noise(
    shape: tuple[int, ...], generator: torch.Generator, context: Context | None = None, loop: bool = False
) -> Tensor:
    """The noise that a clip begins with.

    Args:
        shape: (b c f h w).
        generator: on the CPU.
        context: None gives `torch.randn` itself.
        loop: as in `windows`.
    """
    return torch.randn(shape, generator=generator)


def _spread(step: int) -> float:
    """In [0, 1): the step's number in binary, mirrored at the point, so that steps in a row are far apart.

    (van der Corput's sequence: 0, 1/2, 1/4, 3/4, 1/8, 5/8, ...)
    """
    return int(f"{step:b}"[::-1], 2) / 2 ** step.bit_length() if step else 0.0
