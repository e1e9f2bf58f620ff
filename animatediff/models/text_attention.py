"""The base's attention to text, computed once a clip."""

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor


class SharedTextAttention(AttnProcessor2_0):
    """Cross-attention whose text keys and values are computed once a prompt and shared by the clip's frames.

    With as many texts as frames, and for self-attention, it is diffusers' own processor. Folding the frames into
    the query's length would spare the copies of k and v too, but changes the last bits of the base's output.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from (b f) m c to the text (b n d)."""
        if encoder_hidden_states is None or len(encoder_hidden_states) == len(hidden_states):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
        f = len(hidden_states) // len(encoder_hidden_states)
        k = attn.to_k(encoder_hidden_states).repeat_interleave(f, dim=0)
        v = attn.to_v(encoder_hidden_states).repeat_interleave(f, dim=0)
        q, k, v = (t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (attn.to_q(hidden_states), k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))
