"""PIA's way to show a picture: more channels for the first convolution, which are read beside the base's own."""

from torch import Tensor, nn


class PictureConvolution(nn.Conv2d):
    """What PIA's first convolution makes of a picture and of each frame's similarity to it, to be added to the base's.

    A convolution of latents and picture is the sum of one of each. So the base keeps its own, which a personalised
    checkpoint may replace, as in PIA's own pipeline (open-mmlab/PIA, `i2v_pipeline.py`).
    """

    def __init__(self, latent_channels: int, out_channels: int) -> None:
        super().__init__(latent_channels + 1, out_channels, 3, padding=1, bias=False)

    def forward(self, picture: Tensor | None) -> Tensor:
        """Return features ((b f) d h w) of `Conditioning.picture`, (b c+1 f h w).

        Raises:
            ValueError: there is no picture.
        """
        if picture is None:
            raise ValueError("PIA's motion module reads a picture beside the latents: give the conditioning one")
        return super().forward(picture.to(self.weight.dtype).transpose(1, 2).flatten(0, 1))
