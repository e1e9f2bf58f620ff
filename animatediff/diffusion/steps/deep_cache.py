"""Deep features taken again from step to step (DeepCache, Ma et al., arXiv 2312.00858)."""

from pydantic import Field

from animatediff.config import Config

MOVING_WINDOW = (
    "deep_cache takes features of the same frames again, and a loop of one window begins elsewhere at each step: leave "
    "deep_cache away, or set context to windows shorter than the clip"
)
"""Why a looped clip of one window has none."""


class DeepCache(Config):
    """How often all of the UNet is computed, and what of it at the steps in between."""

    every: int = Field(2, ge=2, le=20)
    """Of how many steps one computes all layers; the others take what it found in the deep ones."""
    layers: int = Field(3, ge=1, le=11)
    """Where the UNet is split: how many of its decoder's last layers, and as many of the encoder's first ones, every
    step computes. Stable Diffusion 1.x has 12, SDXL 9, three a resolution: 3 is all at the full resolution."""
