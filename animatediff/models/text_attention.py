"""The base's attention to text, computed once a clip, and to images beside it."""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from animatediff.diffusion.conditioning import ImagePrompt


def share_text_attention(base: UNet2DConditionModel | ControlNetModel) -> None:
    """Let a UNet's attentions compute what is constant over a clip once, and read images where they are given.

    Each knows its number: its place in `attn_processors` (down, up, mid), by which IP-Adapter's files name the layers.
    """
    base.set_attn_processor({name: SharedTextAttention(layer) for layer, name in enumerate(base.attn_processors)})


class SharedTextAttention(AttnProcessor2_0):
    """Cross-attention whose text keys and values are computed once a prompt and shared by the clip's frames.

    With as many texts as frames, and for self-attention, it is diffusers' own processor. Folding the frames into
    the query's length would spare the copies of k and v too, but changes the last bits of the base's output.

    Image prompts are a second attention of the same queries, added to that to the text (IP-Adapter, arXiv 2308.06721,
    section 3.2.2).

    Args:
        layer: number of the attention among the UNet's.
    """

    def __init__(self, layer: int) -> None:
        super().__init__()
        self._layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_prompts: Sequence[ImagePrompt] = (),
    ) -> Tensor:
        """Attend from (b f) m c to the text, (b n d) or ((b f) n d), and to images, whose masks have m places.

        Self-attentions are told of the images too, and leave them.
        """
        images = [] if encoder_hidden_states is None else [image for image in image_prompts if image.scale != 0]
        is_a_frame = encoder_hidden_states is None or len(encoder_hidden_states) == len(hidden_states)
        if is_a_frame and not images:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
        q = attn.to_q(hidden_states)
        attend = partial(_attend, q, num_heads=attn.heads)
        out = attend(attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        for image in images:
            tokens = image.tokens if image.tokens.ndim == 3 else image.tokens.flatten(0, 1)
            read = attend(*image.adapter(self._layer, tokens.to(q.dtype)))
            if image.mask is not None:
                mask = image.mask.flatten(1)[:, :, None].to(q.dtype)
                read = read * mask.repeat_interleave(len(q) // len(mask), dim=0)
            out = out + image.scale * read
        return attn.to_out[0](out)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, num_heads: int) -> Tensor:
    """Attend from (b f) m c to keys and values (b n c), which are their frames', or ((b f) n c)."""
    f = len(q) // len(k)
    k, v = (t.repeat_interleave(f, dim=0) for t in (k, v))
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
