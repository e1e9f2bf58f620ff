"""What a UNet's outer layers read from its deep ones, kept for steps that do not compute these."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class DeepFeatures:
    """Of some clips, for one call of a UNet: without features it computes all layers and keeps them here."""

    num_layers: int
    """Of the decoder's last layers, which are computed in any case."""
    features: Tensor | None = None
    """((b f) c h w), what the first of these layers reads beside its skip."""
