"""Captions to text embeddings, by the base's frozen text encoder."""

from functools import lru_cache

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from animatediff.weights.text import PromptEncoder

# 1,024 embeddings of Stable Diffusion 1.5 are 120 MB in half precision.
_CACHED_CAPTIONS = 1024


class CaptionEncoder:
    """Embeds captions, keeping the last ones.

    Each caption is encoded alone: a matrix product's rounding depends on its batch, so a caption's embedding would
    depend on which of its neighbours were cached, and a resumed run would differ in the last bits.

    Args:
        tokenizer: the base's.
        encoder: the base's; it is moved.
        device: where the encoder stays.
        dtype: its precision.
    """

    def __init__(
        self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._prompts = PromptEncoder(tokenizer, encoder.to(device, dtype))
        self._embed = lru_cache(maxsize=_CACHED_CAPTIONS)(self._encode)

    def __call__(self, captions: list[str]) -> Tensor:
        """(b n d) on the encoder's device; "" is the unconditional embedding."""
        return torch.stack([self._embed(caption) for caption in captions])

    def _encode(self, caption: str) -> Tensor:
        return self._prompts.encode([caption])[0]
