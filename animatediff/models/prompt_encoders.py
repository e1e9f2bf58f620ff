"""A base's text encoders as one: that of Stable Diffusion 1.x, or SDXL's two side by side."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from animatediff.models.embedding import Embedding
from animatediff.models.prompts.pieces import Sections
from animatediff.models.text_encoder import PromptEncoder

TextEncoderParts = Mapping[str, tuple[CLIPTokenizer, CLIPTextModel | CLIPTextModelWithProjection]]
"""Tokenizer and encoder by part: `text_encoder`, and SDXL's `text_encoder_2`."""


class EncodedPrompt(NamedTuple):
    """What the UNet is told of one text."""

    text: Tensor
    """(1 n d), the tokens' embeddings; SDXL's two encoders' are beside each other in d."""
    pooled: Tensor | None
    """(1 p), SDXL's embedding of the whole text, by the second encoder; None elsewhere."""

    def to(self, dtype: torch.dtype) -> "EncodedPrompt":
        """Return the same in a precision."""
        return EncodedPrompt(self.text.to(dtype), None if self.pooled is None else self.pooled.to(dtype))

    def zeros(self) -> "EncodedPrompt":
        """Return zeros of the same shape: what SDXL is told where there is no text."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return EncodedPrompt(torch.zeros_like(self.text), pooled)


class PromptEncoders:
    """Encodes prompts as the base was trained to read them.

    Of Stable Diffusion 1.x that is the last hidden state; of SDXL the hidden states before the last layer of both
    encoders, and the pooled embedding of the second.

    Args:
        parts: tokenizers and encoders; the encoders' weights may be swapped, cast and moved at any time.
    """

    def __init__(self, parts: TextEncoderParts) -> None:
        self._encoders = [PromptEncoder(tokenizer, encoder, part) for part, (tokenizer, encoder) in parts.items()]

    def set_embeddings(self, embeddings: Sequence[Embedding]) -> None:
        """Use these learned words, in place of those set before; see `PromptEncoder.set_embeddings`.

        Raises:
            UserError: one lacks the vectors of an encoder, or they do not fit it, or two have one token. Which are
                set then is open: set others.
        """
        for encoder in self._encoders:
            encoder.set_embeddings(embeddings)

    def encode(self, text: str, clip_skip: int = 0) -> EncodedPrompt:
        """Return the embeddings of a prompt or caption; what is beyond a tokenizer's length is cut off, with a warning.

        Args:
            text: "" is the unconditional one.
            clip_skip: layers of each encoder that are left out, beside SDXL's last one.

        Raises:
            UserError: an encoder has no more layers than are to be left out.
        """
        if not self._is_xl:
            return EncodedPrompt(self._encoders[0].encode([text], clip_skip), None)
        return _side_by_side([encoder.encode_xl([text], clip_skip) for encoder in self._encoders])

    def encode_chunks(self, sections: Sections, clip_skip: int = 0, *, num_chunks: int | None = None) -> EncodedPrompt:
        """Return the embeddings of a prompt of any length, chunk after chunk; see `PromptEncoder.encode_chunks`.

        Args:
            sections: the prompt's weighted pieces.
            clip_skip: as in `encode`.
            num_chunks: so many: empty ones are added, and what is beyond is cut off, with a warning. Default: as many
                as the prompt has.

        Raises:
            UserError: as `encode`.
        """
        num_chunks = num_chunks or self.count_chunks(sections)
        if not self._is_xl:
            return EncodedPrompt(self._encoders[0].encode_chunks(sections, clip_skip, num_chunks=num_chunks), None)
        return _side_by_side(
            [encoder.encode_chunks_xl(sections, clip_skip, num_chunks=num_chunks) for encoder in self._encoders]
        )

    def count_chunks(self, sections: Sections) -> int:
        """Return how many chunks a prompt has, at least one."""
        return max(encoder.count_chunks(sections) for encoder in self._encoders)

    def cut_off(self, text: str) -> str | None:
        """Return what `encode` leaves out of a prompt, in one line; None if it reads all of it."""
        return next((found for encoder in self._encoders if (found := encoder.cut_off(text))), None)

    @property
    def _is_xl(self) -> bool:
        return len(self._encoders) > 1


def _side_by_side(encoded: Sequence[tuple[Tensor, Tensor | None]]) -> EncodedPrompt:
    """Return SDXL's embeddings from what each of its encoders gives."""
    return EncodedPrompt(torch.cat([states for states, _ in encoded], dim=-1), encoded[-1][1])
