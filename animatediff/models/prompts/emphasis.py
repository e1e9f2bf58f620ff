"""What a word's weight does: its tokens' hidden states are multiplied by it."""

from collections.abc import Sequence

from torch import Tensor

# Sums of a chunk's hidden states round by about this share of the values' size. Below it a mean is no number to divide
# by: that of a text encoder whose last norm has learned nothing is zero.
_ROUNDING = 1e-6


def emphasise(hidden: Tensor, weights: Sequence[float], *, keeps_mean: bool) -> Tensor:
    """Multiply the hidden states of a chunk by the weights of their tokens.

    Both ways are A1111's (modules/sd_emphasis.py): "Original", which brings the chunk back to the mean that it had, for
    Stable Diffusion 1.x and 2, and "No norm" for SDXL. Weights of 1 change no bit.

    Args:
        hidden: (1 n d) of one chunk.
        weights: n of them.
        keeps_mean: whether the mean over the whole chunk is brought back.

    Returns:
        (1 n d), in the precision of `hidden`; computed in float32.
    """
    if set(weights) == {1.0}:
        return hidden
    before = hidden.float()
    after = before * before.new_tensor(weights)[:, None]
    if keeps_mean:
        old, new = before.mean(), after.mean()
        noise = _ROUNDING * before.abs().mean()
        if old.abs() > noise and new.abs() > noise:
            after = after * (old / new)
    return after.to(hidden.dtype)
