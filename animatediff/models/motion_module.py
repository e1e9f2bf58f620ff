"""The motion module: a temporal transformer whose output projection starts at zero.

Parameter names are the official checkpoints' own (`temporal_transformer.proj_in.weight`, ...), so a state dict is a
file. Only the attention's q, k and v are one fused parameter here; they are split and merged as a state dict passes.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from animatediff.models.computing.token_linear import TokenLinear, use_token_linear
from animatediff.models.config import MotionConfig
from animatediff.models.feed_forward import MemoryEfficientFeedForward

# Fused attention kernels use the batch as a CUDA grid dimension and fail from 65,536 rows on
# (pytorch#142228, #146704); half of it keeps every chunk a fast, even size.
_MAX_ATTENTION_ROWS = 32_768


def sinusoidal_positions(num_frames: int, channels: int) -> Tensor:
    """Return the position table of "Attention is all you need", base 10000: sin in even channels, cos in odd ones.

    Returns:
        (f, c) float32. A longer table begins with the shorter one, so a file's own table is never needed.
    """
    if torch.get_default_device().type == "meta":  # there `arange` is computed by rules that import a compiler first
        return torch.empty(num_frames, channels)
    position = torch.arange(num_frames, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, channels, 2) * (-math.log(10_000.0) / channels))
    table = torch.zeros(num_frames, channels)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)
    return table


class TemporalAttention(nn.Module):
    """Full, non-causal self-attention over the frames of each pixel."""

    positions: Tensor | None

    def __init__(self, channels: int, config: MotionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.to_qkv = TokenLinear(channels, 3 * channels, bias=False)
        # Dropout(0) holds index 1 of the official layout.
        self.to_out = nn.ModuleList([TokenLinear(channels, channels), nn.Dropout(0.0)])
        table = sinusoidal_positions(config.max_frames, channels) if config.use_positions else None
        self.register_buffer("positions", table, persistent=False)
        self.register_state_dict_post_hook(_split_qkv)
        self.register_load_state_dict_pre_hook(_fuse_qkv)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over frames; `x` and the result are (r, f, c) with one row `r` a pixel."""
        if self.positions is not None:
            x = x + self.positions[: x.shape[1]].to(x.dtype)
        # Chunks, not an axis of three: their gradients come back in one copy instead of two.
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in self.to_qkv(x).chunk(3, dim=-1))
        return self.to_out[0](_attend_in_chunks(q, k, v).transpose(1, 2).flatten(2))


def _attend_in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if len(q) <= _MAX_ATTENTION_ROWS:  # to split and join a single chunk would copy it, and its gradients
        return F.scaled_dot_product_attention(q, k, v)
    rows = zip(*(t.split(_MAX_ATTENTION_ROWS) for t in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*chunk) for chunk in rows])


def _split_qkv(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: dict[str, Any]) -> None:
    fused = state.pop(f"{prefix}to_qkv.weight")
    for name, part in zip("qkv", fused.chunk(3), strict=True):
        state[f"{prefix}to_{name}.weight"] = part


def _fuse_qkv(_module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    names = [f"{prefix}to_{name}.weight" for name in "qkv"]
    if all(name in state for name in names):
        state[f"{prefix}to_qkv.weight"] = torch.cat([state.pop(name) for name in names])


class TextAttention(nn.Module):
    """Attention from each frame of each pixel to the clip's caption, or to the frame's own where each has one.

    Its output starts at zero, so that motion modules which know no caption stay what they are when it is added.
    """

    positions: Tensor | None

    def __init__(self, channels: int, text_width: int, config: MotionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.to_q = TokenLinear(channels, channels, bias=False)
        self.to_k = nn.Linear(text_width, channels, bias=False)
        self.to_v = nn.Linear(text_width, channels, bias=False)
        out = TokenLinear(channels, channels)
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
        self.to_out = nn.ModuleList([out, nn.Dropout(0.0)])
        # "Moving left" asks something else of the first frame than of the last: the query knows which it is.
        table = sinusoidal_positions(config.max_frames, channels) if config.use_positions else None
        self.register_buffer("positions", table, persistent=False)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Attend from `x`, (b h w) f c, to `text`, (b n d) or (b f n d); the result is of `x`'s shape."""
        if self.positions is not None:
            x = x + self.positions[: x.shape[1]].to(x.dtype)
        if text.ndim == 3:
            return self._attend(x, text)
        b, f = text.shape[:2]
        rows = x.unflatten(0, (b, -1)).transpose(1, 2).flatten(0, 1)  # (b h w) f c -> (b f) (h w) c
        return self._attend(rows, text.flatten(0, 1)).unflatten(0, (b, f)).transpose(1, 2).flatten(0, 1)

    def _attend(self, x: Tensor, text: Tensor) -> Tensor:
        # One query a text, as long as it has tokens: keys and values are computed once.
        q, k, v = (
            t.reshape(len(text), -1, self.num_heads, x.shape[-1] // self.num_heads).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(text), self.to_v(text))
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](out.transpose(1, 2).reshape(x.shape))


class TemporalBlock(nn.Module):
    """Pre-norm attentions over frames, one to the caption if it is asked for, a GEGLU feed-forward, all residual."""

    def __init__(self, channels: int, config: MotionConfig) -> None:
        super().__init__()
        layers = range(config.num_layers)
        self.attention_blocks = nn.ModuleList(TemporalAttention(channels, config) for _ in layers)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in layers)
        self.text_attention: TextAttention | None = None
        if config.text_width is not None:
            self.text_attention = TextAttention(channels, config.text_width, config)
            self.text_norm = nn.LayerNorm(channels)
        self.ff = MemoryEfficientFeedForward(channels)
        use_token_linear(self.ff)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        """Transform `x`, (b h w) f c, for clips whose captions are `text`, (b n d) or (b f n d)."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention(norm(x))
        if self.text_attention is not None:
            x = x + self.text_attention(self.text_norm(x), text)
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """Norm, projection, temporal block, zero-initialised projection, residual."""

    def __init__(self, channels: int, config: MotionConfig) -> None:
        super().__init__()
        self.norm_scope = config.norm_scope
        self.norm = nn.GroupNorm(config.norm_num_groups, channels, eps=1e-6)
        self.proj_in = TokenLinear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(channels, config)])
        self.proj_out = TokenLinear(channels, channels)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, num_frames: int, text: Tensor | None) -> Tensor:
        """Transform `x`, (b f) c h w, for clips whose captions are `text`, (b n d) or (b f n d)."""
        height, width = x.shape[-2:]
        normed = scoped_group_norm(self.norm, x, num_frames if self.norm_scope == "clip" else 1)
        # (b f) c h w -> (b h w) f c, the one layout change each way: everything inside is per token.
        tokens = normed.unflatten(0, (-1, num_frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, text)
        out = self.proj_out(tokens).unflatten(0, (-1, height, width))  # b h w f c
        return x + out.permute(0, 3, 4, 1, 2).flatten(0, 1)


class MotionModule(nn.Module):
    """One motion module: mixes the frames of a clip at one place of the UNet.

    A fresh one is the identity, because its last projection is zero.

    Args:
        channels: channels of the feature map it is put behind; divisible by heads and norm groups.
        config: the version's shape.

    Raises:
        ValueError: `channels` does not divide by the heads or the norm groups.
    """

    def __init__(self, channels: int, config: MotionConfig) -> None:
        super().__init__()
        for name, number in (("num_heads", config.num_heads), ("norm_num_groups", config.norm_num_groups)):
            if channels % number:
                raise ValueError(f"a motion module of {channels} channels does not divide by {name} {number}")
        self.channels = channels
        self.max_frames = config.max_frames if config.use_positions else None
        self.text_width = config.text_width
        self.temporal_transformer = TemporalTransformer(channels, config)

    def forward(self, x: Tensor, num_frames: int, text: Tensor | None = None) -> Tensor:
        """Mix frames.

        Args:
            x: (b f) c h w features, the frames of a clip next to each other.
            num_frames: f.
            text: text embeddings, (b n d) of one a clip or (b f n d) of one a frame; used, and needed, only where the
                config has a `text_width`.

        Returns:
            (b f) c h w.

        Raises:
            ValueError: another number of dimensions or channels, more frames than the position table has, or text
                embeddings that the motion module needs and that are not there or of another width.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or num_frames < 1 or x.shape[0] % num_frames:
            raise ValueError(
                f"a motion module takes (b f) c h w with c = {self.channels} and f = {num_frames}, got {tuple(x.shape)}"
            )
        check_num_frames(num_frames, self.max_frames)
        clips = x.shape[0] // num_frames
        # All but n, of which there may be any number.
        shape = () if text is None else (*text.shape[:-2], text.shape[-1])
        if self.text_width is not None and shape not in (
            (clips, self.text_width),
            (clips, num_frames, self.text_width),
        ):
            raise ValueError(
                f"this motion module attends to text embeddings (b n d) or (b f n d) with b = {clips}, "
                f"f = {num_frames} and d = {self.text_width}, got {None if text is None else tuple(text.shape)}"
            )
        return self.temporal_transformer(x, num_frames, text)


def check_num_frames(num_frames: int, max_frames: int | None) -> None:
    """Refuse a clip that is longer than the position table.

    Raises:
        ValueError: `num_frames` is larger than `max_frames`.
    """
    if max_frames is not None and num_frames > max_frames:
        raise ValueError(
            f"got a clip of {num_frames} frames, the motion module's position table has {max_frames}: "
            "render it in context windows, or build the module with a longer table (max_frames)"
        )


def scoped_group_norm(norm: nn.GroupNorm, x: Tensor, num_frames: int) -> Tensor:
    """Apply a GroupNorm to (b f) c h w with the statistics of `num_frames` frames together; 1 is each frame's own."""
    if num_frames == 1:
        return norm(x)
    clips = x.unflatten(0, (-1, num_frames)).transpose(1, 2)  # b c f h w
    return norm(clips).transpose(1, 2).flatten(0, 1)
