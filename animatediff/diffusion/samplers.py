"""Samplers: the ways from noise to latents that diffusers' schedulers know."""

from typing import Literal

Sampler = Literal["ddim", "euler", "euler_a", "dpmpp_2m", "lcm"]
"""By the field's names: DDIM, Euler, Euler ancestral, DPM++ 2M, and LCM for consistency-distilled modules."""

TimestepSpacing = Literal["leading", "trailing", "linspace"]
"""diffusers' names (Lin et al., arXiv 2305.08891, table 2)."""
