"""Context windows: clips longer than a motion module sees at a time."""

import itertools
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


def context_windows(num_frames: int, context: Context | None, loop: bool, progress: float) -> list[list[int]]:
    """Return the frames that the motion module sees together: indices, the windows being of one length.

    The first window of a clip without `loop` begins at its first frame, the last one ends at its last. With `loop`,
    windows go on from the last frame to the first.

    A loop that is one window would have a seam where the window ends. So the window begins further on at each step,
    once around the clip in all. Windows that overlap have no seam, and stay where they are: a frame's prediction
    depends on its place in the window, and a sampler that builds on the steps before, as DPM++ 2M does, makes such
    changes larger.

    Args:
        num_frames: of the clip.
        context: None is one window.
        loop: whether the last frame goes over into the first.
        progress: share in [0, 1) of the denoising steps that are done.
    """
    length = min(num_frames, context.length if context else num_frames)
    if context is None or length == num_frames:
        starts = [int(progress * num_frames) if loop else 0]
    else:
        # Spread evenly: a stride that does not fit the clip becomes a shorter one.
        way = num_frames if loop else num_frames - length
        num = -(-way // (length - context.overlap))
        starts = [i * way // num for i in range(num if loop else num + 1)]
    return [[(start + i) % num_frames for i in range(length)] for start in starts]


def window_weights(window_frames: Sequence[Sequence[int]]) -> Tensor:
    """Return how much of a frame's prediction each window gives: (windows length) float32, in all 1 a frame.

    A window's share falls towards its ends, where the motion module sees least of what is around a frame.
    """
    frames = torch.tensor(window_frames)
    length = frames.shape[1]
    weights = (torch.arange(length) + 1.0).minimum(length - torch.arange(length)).expand(len(window_frames), length)
    total = torch.zeros(int(frames.max()) + 1).index_add_(0, frames.flatten(), weights.flatten())
    return weights / total[frames]


def initial_noise(
    shape: tuple[int, ...], generator: torch.Generator, context: Context | None = None, loop: bool = False
) -> Tensor:
    """Return the noise that a clip begins with: `torch.randn`, and for more than one window, all of them begin alike.

    The frames that a window adds take the noise of those that it leaves, in random order (FreeNoise, arXiv
    2310.15169). What a window shows follows from its noise, and where two of them show different things, the subject
    jumps. On 14 clips of 64 sprite frames, 7 steps between frames are longer than 8 pixels of 64 with noise of each
    frame's own, one with this; the price is a quarter of the motion (median step 0.56 pixels, 0.72 without).

    Args:
        shape: (b c f h w).
        generator: on the CPU.
        context: as in `context_windows`.
        loop: as in `context_windows`.
    """
    noise = torch.randn(shape, generator=generator)
    window_frames = context_windows(shape[2], context, loop, progress=0.0)
    done = set(window_frames[0])
    for before, after in itertools.pairwise(window_frames):
        left = [frame for frame in before if frame not in after]
        added = [frame for frame in after if frame not in done]
        order = torch.randperm(len(left), generator=generator)[: len(added)]
        noise[:, :, added] = noise[:, :, [left[i] for i in order]]
        done.update(added)
    return noise
