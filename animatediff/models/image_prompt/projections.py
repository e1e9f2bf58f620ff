"""What IP-Adapters make image tokens with, of what CLIP says of a picture; parameters are named as in the files.

Source: tencent-ailab/IP-Adapter, ip_adapter.py and resampler.py.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_WIDTH = 64
"""Channels of each head of the attention in `Resampler`."""


class EmbeddingProjection(nn.Module):
    """Few tokens of the picture's one embedding: the base variant."""

    def __init__(self, clip_width: int, token_width: int, num_tokens: int) -> None:
        super().__init__()
        self.proj = nn.Linear(clip_width, num_tokens * token_width)
        self.norm = nn.LayerNorm(token_width)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return tokens (b n d) of CLIP's embeddings (b p)."""
        return self.norm(self.proj(embeddings).unflatten(-1, (-1, self.norm.normalized_shape[0])))


class StatesProjection(nn.Module):
    """A token of each of CLIP's states: full-face."""

    def __init__(self, clip_width: int, token_width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(clip_width, clip_width), nn.GELU(), nn.Linear(clip_width, token_width), nn.LayerNorm(token_width)
        )

    def forward(self, states: Tensor) -> Tensor:
        """Return tokens (b n d) of CLIP's states (b n h)."""
        return self.proj(states)


class Resampler(nn.Module):
    """As many tokens as there are learned queries, which attend to CLIP's states: plus, and plus-face."""

    def __init__(
        self, clip_width: int, token_width: int, *, num_tokens: int, width: int, depth: int, num_heads: int
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, num_tokens, width))
        self.proj_in = nn.Linear(clip_width, width)
        blocks = (nn.ModuleList((_Attention(width, num_heads), _feed_forward(width))) for _ in range(depth))
        self.layers = nn.ModuleList(blocks)
        self.proj_out = nn.Linear(width, token_width)
        self.norm_out = nn.LayerNorm(token_width)

    def forward(self, states: Tensor) -> Tensor:
        """Return tokens (b n d) of CLIP's states (b m h)."""
        states = self.proj_in(states)
        latents = self.latents.expand(len(states), -1, -1)
        blocks: Iterable[Any] = self.layers
        for attention, feed_forward in blocks:
            latents = latents + attention(states, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


class _Attention(nn.Module):
    """From the queries to the states and the queries themselves."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        inner_width = num_heads * HEAD_WIDTH
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)  # of the states, of the queries
        self.to_q = nn.Linear(width, inner_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner_width, bias=False)
        self.to_out = nn.Linear(inner_width, width, bias=False)

    def forward(self, states: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        k, v = self.to_kv(torch.cat([self.norm1(states), latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for t in (self.to_q(latents), k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 4 * width, bias=False),
        nn.GELU(),
        nn.Linear(4 * width, width, bias=False),
    )
