"""The second pass: a clip is made larger and denoised again, which users call hires fix."""

from typing import Literal

from pydantic import Field

from animatediff.config import Config


class SecondPass(Config):
    """How much larger, and how much of the clip is made anew."""

    scale: float = Field(1.5, ge=1, le=8)
    """Width and height are multiplied by it."""
    strength: float = Field(0.5, ge=0, le=1)
    """Share of the denoising steps that are taken again. Enlarged latents need about half, or they stay blurred;
    enlarged frames less."""
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps of which `strength` takes a share; default: as many as the first pass has."""
    of: Literal["latents", "frames"] = "latents"
    """What is enlarged: `latents`, bicubic; or the decoded `frames`, by Lanczos, which the VAE then encodes again:
    sharper, for the time and memory of the VAE's passes."""

    def enlarged(self, pixels: int) -> int:
        """Return a side of the larger clip, in pixels."""
        return round(pixels * self.scale)
