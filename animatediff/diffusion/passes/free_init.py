"""FreeInit: a clip is sampled again from noise that keeps its low frequencies (Wu et al., arXiv 2312.07537).

Noise of each frame's own has no low frequencies in common with its neighbours, as noised videos have; a model that was
trained on those makes calmer clips of noise that has them. `repeated_sampling` does it. Configs are read before torch
is imported.
"""

from typing import Literal

from pydantic import Field

from animatediff.config import Config


class FreeInit(Config):
    """How often a clip is sampled, and what is kept of it each time; the defaults are the paper's."""

    iterations: int = Field(3, ge=1, le=100)
    """Times that the clip is sampled: each takes as long as the first."""
    filter: Literal["butterworth", "gaussian", "ideal", "box"] = "butterworth"
    """The low-pass filter's shape."""
    order: int = Field(4, ge=1, le=100)
    """Steepness of `butterworth`."""
    spatial: float = Field(0.25, ge=0, le=1)
    """Up to which share of the highest frequency over height and width is kept; 0 keeps nothing."""
    temporal: float = Field(0.25, ge=0, le=1)
    """Likewise over the frames."""
    fast: bool = False
    """Whether the first times are rough: time i of n takes i/n of the steps."""

    def num_steps(self, iteration: int, num_inference_steps: int) -> int:
        """Return the denoising steps of one of the times that a clip is sampled.

        Args:
            iteration: from 0.
            num_inference_steps: of the last time.
        """
        if not self.fast:
            return num_inference_steps
        return max(1, int(num_inference_steps / self.iterations * (iteration + 1)))
