"""IP-Adapters: pictures to image tokens, and the weights by which the UNet's cross-attentions read them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from animatediff.diffusion.conditioning import ImagePrompt
from animatediff.errors import UserError
from animatediff.models.image_prompt.image_encoder import ClipOutput, ImageEncoder, clip_name


class IPAdapter(nn.Module):
    """An IP-Adapter (arXiv 2308.06721), an `ImageAttention`; its state dict is the official file's.

    It lies beside the UNet, which stays as it is. Move and cast it as the UNet.

    Args:
        image_proj: one of `projections`.
        reads: what of CLIP's `image_proj` takes.
        clip_width: how many numbers that has.
        widths: of the cross-attentions, by their number in the UNet's `attn_processors`.
        token_width: of the image tokens; that of the text embeddings.
        name: what it is called in messages.
    """

    def __init__(
        self,
        image_proj: nn.Module,
        reads: ClipOutput,
        clip_width: int,
        *,
        widths: Mapping[int, int],
        token_width: int,
        name: str,
    ) -> None:
        super().__init__()
        self.image_proj, self.reads, self.clip_width, self.name = image_proj, reads, clip_width, name
        self.widths, self.token_width = widths, token_width
        self.ip_adapter = nn.ModuleDict({str(n): _KeysAndValues(token_width, width) for n, width in widths.items()})

    def forward(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, (r n c) each, of image tokens (r n d) for the cross-attention of that number."""
        return self.ip_adapter[str(layer)](tokens)

    def check_encoder(self, encoder: ImageEncoder) -> None:
        """Refuse an image encoder that is not the one that the adapter was trained with, by its width.

        Raises:
            UserError: it is another one; the line names both.
        """
        found = encoder.width(self.reads)
        if found != self.clip_width:
            raise UserError(
                f"{self.name} reads {clip_name(self.reads, self.clip_width)}, {encoder.name} gives "
                f"{clip_name(self.reads, found)}: take the encoder that it was trained with"
            )


class ImageTokens(NamedTuple):
    """What an adapter makes of pictures."""

    pictures: Tensor
    """(k n d), of each picture."""
    of_no_picture: Tensor
    """(n d), of no picture: for the negative branch of the guidance."""

    def joined(self) -> "ImageTokens":
        """Return the tokens of all pictures as those of one, which the attention weighs against each other."""
        return ImageTokens(self.pictures.flatten(0, 1)[None], self.of_no_picture.repeat(len(self.pictures), 1))

    def prompts(
        self, adapter: IPAdapter, *, scale: float = 1.0, mask: Tensor | None = None
    ) -> tuple[ImagePrompt, ImagePrompt]:
        """Return the image prompts of one clip: for its `Conditioning`, and for that one's negative branch.

        Args:
            adapter: what made the tokens.
            scale: what the images' share of the attention is multiplied by.
            mask: (H W) in [0, 1]: where the images count; None is everywhere.

        Returns:
            One picture is of all frames; of several each is one frame's, in order.
        """
        one = self.pictures if len(self.pictures) == 1 else self.pictures[None]  # (1 n d), or (1 f n d)
        masks = None if mask is None else mask[None]
        return (
            ImagePrompt(adapter, one, scale, masks),
            ImagePrompt(adapter, self.of_no_picture.expand_as(one), scale, masks),
        )


@torch.no_grad()
def image_tokens(pictures: Sequence[np.ndarray], adapter: IPAdapter, encoder: ImageEncoder) -> ImageTokens:
    """Return the image tokens of pictures, on the adapter's device and in its precision.

    Each picture passes through encoder and adapter by itself, and through the encoder once, however many adapters and
    clips have it.

    Args:
        pictures: k of (h w 3) uint8 RGB, each of any size.
        adapter: makes the tokens.
        encoder: the one that the adapter was trained with.

    Raises:
        UserError: it is another one.
    """
    adapter.check_encoder(encoder)
    like = next(adapter.image_proj.parameters())
    found = [encoder.read(picture) for picture in pictures] + [encoder.read_nothing()]
    tokens = [adapter.image_proj(getattr(one, adapter.reads)[None].to(like.device, like.dtype)) for one in found]
    return ImageTokens(torch.cat(tokens[:-1]), tokens[-1][0])


class _KeysAndValues(nn.Module):
    """What one cross-attention reads of image tokens."""

    def __init__(self, token_width: int, width: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(token_width, width, bias=False)
        self.to_v_ip = nn.Linear(token_width, width, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_k_ip(tokens), self.to_v_ip(tokens)
