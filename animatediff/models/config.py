"""What distinguishes the published motion-module versions, in one typed config."""

from typing import Literal, Self

from pydantic import Field

from animatediff.config import Config

ActivationCheckpointing = Literal["none", "motion", "all"]
"""Whose activations are computed again in the backward pass instead of kept: nobody's, each motion module's, or those
of each unit of ResNet, spatial attention and motion module."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""What a model computes in, by PyTorch's names, or what suits its device."""

Version = Literal["v1", "v2", "v3", "animatelcm", "sdxl", "hotshotxl"]
NormScope = Literal["frame", "clip"]


class MotionConfig(Config):
    """Shape of a motion module.

    The defaults are v3's. The versions differ as `MotionConfig.for_version` says; sources: the official
    repository's inference configs and the measured golden vectors under `tests/golden`.
    """

    num_heads: int = Field(8, ge=1)
    """Attention heads; a motion module's channels must divide by it."""
    num_layers: int = Field(2, ge=1, le=16)
    """Temporal self-attentions in one motion module."""
    max_frames: int = Field(32, ge=1, le=4096)
    """Length of the position table: the longest clip one forward pass takes."""
    use_positions: bool = True
    """Add the sinusoidal frame position before each temporal attention."""
    use_mid_block: bool = False
    """A motion module in the UNet's middle block too (v2)."""
    norm_num_groups: int = Field(32, ge=1)
    """Groups of the motion module's GroupNorm."""
    norm_scope: NormScope = "frame"
    """Whether the motion module's GroupNorm takes its statistics from one frame or from the clip (SDXL-beta)."""
    resnet_norm_scope: NormScope = "frame"
    """The same for the base UNet's ResNet norms and its output norm (v1 was trained with the clip's)."""
    text_width: int | None = Field(None, ge=1)
    """Channels of the text embeddings that every temporal block attends to as well, after its attentions over frames;
    None, as in all published versions, is no such attention: the motion then knows nothing of the caption."""

    @classmethod
    def for_version(cls, version: Version) -> Self:
        """Return the config of a published version.

        v1, v2, v3 and animatelcm are for Stable Diffusion 1.x, sdxl (SDXL-beta) and hotshotxl for SDXL.

        Sources of animatelcm and hotshotxl: `PositionalEncoding` and `ResnetBlock3D` in G-U-N/AnimateLCM and
        hotshotco/Hotshot-XL.
        """
        if version == "v1":
            return cls(max_frames=24, resnet_norm_scope="clip")
        if version == "v2":
            return cls(use_mid_block=True)
        if version == "animatelcm":
            return cls(use_mid_block=True, max_frames=64)
        if version == "sdxl":
            return cls(norm_scope="clip")
        if version == "hotshotxl":
            return cls(max_frames=24, resnet_norm_scope="clip")
        return cls()
