"""Captions to what the UNet is conditioned on, by the base's frozen text encoders."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from animatediff.weights.text import PromptEncoder

TextEncoders = Mapping[str, tuple[CLIPTokenizer, CLIPTextModel | CLIPTextModelWithProjection]]
"""Tokenizer and encoder by part, as `load_text_encoders` gives them."""

# 1,024 embeddings of Stable Diffusion 1.5 are 120 MB in half precision, of SDXL 320 MB.
_CACHED_CAPTIONS = 1024


class Conditioning(NamedTuple):
    """Of b captions."""

    text: Tensor
    """(b n d) embeddings."""
    pooled: Tensor | None
    """(b p), SDXL's embedding of the whole caption; None elsewhere."""


class CaptionEncoder:
    """Embeds captions, keeping the last ones.

    Each caption is encoded alone: a matrix product's rounding depends on its batch, so a caption's embedding would
    depend on which of its neighbours were cached, and a resumed run would differ in the last bits.

    Args:
        encoders: the base's, one or SDXL's two; they are moved.
        device: where they stay.
        dtype: their precision.
    """

    def __init__(self, encoders: TextEncoders, device: torch.device, dtype: torch.dtype) -> None:
        self._prompts = [
            PromptEncoder(tokenizer, encoder.to(device, dtype), part) for part, (tokenizer, encoder) in encoders.items()
        ]
        self._embed = lru_cache(maxsize=_CACHED_CAPTIONS)(self._encode)

    def __call__(self, captions: list[str]) -> Conditioning:
        """On the encoders' device; "" is the unconditional embedding."""
        text, pooled = zip(*(self._embed(caption) for caption in captions), strict=True)
        return Conditioning(torch.stack(text), None if pooled[0] is None else torch.stack(pooled))

    def _encode(self, caption: str) -> tuple[Tensor, Tensor | None]:
        if len(self._prompts) == 1:
            return self._prompts[0].encode([caption])[0], None
        (first, _), (second, pooled) = (prompts.encode_xl([caption]) for prompts in self._prompts)
        assert pooled is not None  # the second encoder has a projection
        return torch.cat([first, second], dim=-1)[0], pooled[0]
