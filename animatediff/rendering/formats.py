"""The formats that a clip is written in. Configs are read before torch is imported."""

from typing import Literal

Format = Literal["mp4", "gif", "webp", "png", "latents"]

POSTER_PIXELS = 320
"""Longest side of a poster."""
