"""Context windows: clips longer than a motion module sees at a time."""

from typing import Self

from pydantic import Field, model_validator

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


def moves_window(num_frames: int, context: Context | None, loop: bool) -> bool:
    """Whether a clip is one window that begins elsewhere at each step; see `context_windows`."""
    return loop and (context is None or num_frames <= context.length)


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
        starts = [int(progress * num_frames) if moves_window(num_frames, context, loop) else 0]
    else:
        # Spread evenly: a stride that does not fit the clip becomes a shorter one.
        way = num_frames if loop else num_frames - length
        num = -(-way // (length - context.overlap))
        starts = [i * way // num for i in range(num if loop else num + 1)]
    return [[(start + i) % num_frames for i in range(length)] for start in starts]
