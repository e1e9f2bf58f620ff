"""How fast ingest is taken to be, for its dry run."""

from pydantic import Field

from animatediff.config import Config
from animatediff.data.clips.config import ClipConfig

_RATED_SPAN = 61
"""Source frames from the first to the last of 16 at stride 4."""
_USUAL_FPS = 25


class RateConfig(Config):
    """What a dry run reckons with."""

    clips_per_s: float | None = Field(None, gt=0)
    """Clips of 16 x 256 x 256 that one VAE worker encodes in a second; others take as much longer as the base's VAE has
    more operations with them. Default: what an A100's 125 TFLOP/s at half precision give, 28 with Stable Diffusion's
    VAE of 4.36 TFLOP a clip, and half of it in float32 (arithmetic, not measured here)."""
    cpu_s_per_clip: float | None = Field(None, gt=0)
    """Seconds that one CPU decodes for a clip. Default: what the output's sealed clips took, or 0.15 for 16 frames at
    stride 4 and in proportion to the source frames that a clip spans (measured: 0.04 for 640 x 272, 0.13 to 0.22 for
    1280 x 720, 0.35 to 0.41 for 1920 x 1080, whose clips want as many more CPUs)."""
    num_workers: int = Field(1, ge=1)
    """VAE workers."""
    usd_per_hour: float | None = Field(None, ge=0)
    """Price of one VAE worker with its share of CPUs; without it no cost is told."""


def usual_cpu_s(clips: ClipConfig) -> float:
    """Return seconds that one CPU decodes for a clip, as `RateConfig.cpu_s_per_clip` has them by default."""
    stride = _USUAL_FPS / clips.fps if clips.fps else clips.stride
    return 0.15 * ((clips.num_frames - 1) * stride + 1) / _RATED_SPAN
