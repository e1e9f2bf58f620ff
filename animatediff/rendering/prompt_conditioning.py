"""An item's prompts to what the UNet is told of them: one text's embeddings a clip, or one a frame."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.prompt_travel import embeddings_of_frames
from animatediff.diffusion.travel import Travel
from animatediff.errors import UserError
from animatediff.models.prompt_encoders import EncodedPrompt, PromptEncoders
from animatediff.models.prompts import a1111_syntax
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.prompts import prompt_syntax
from animatediff.rendering.catalog.prompts.prompt_problems import prompt_problems
from animatediff.rendering.catalog.prompts.prompt_text import texts_by_frame

# A prompt's embeddings are 118 KB in half precision, SDXL's 318 KB; the negative ones and those of a matrix come back
# all the time.
_MAX_CACHED_PROMPTS = 1024


class PromptConditioner:
    """Encodes the prompts of items, distinct texts once.

    Args:
        encoders: the base's.
        dtype: the UNet's, which is told in it.
        zeroes_empty_negative: whether an empty negative prompt stands for zeros, as `BaseFacts` says.
    """

    def __init__(self, encoders: PromptEncoders, dtype: torch.dtype, *, zeroes_empty_negative: bool = False) -> None:
        self._encoders, self._dtype, self._zeroes_empty_negative = encoders, dtype, zeroes_empty_negative
        self._cache: OrderedDict[tuple[Hashable, ...], EncodedPrompt] = OrderedDict()
        self.cache_key: Hashable = None
        """What decides embeddings beside a text: the files of learned words, and those that have changed the text
        encoder. To be set whenever these change."""

    def conditioning(self, item: Item) -> Conditioning:
        """Return the conditioning of one clip, which depends on its item alone.

        With guidance the prompt and the negative prompt have equally many chunks, filled up with empty ones, and both
        have one text a frame where one of them has.

        Raises:
            UserError: a prompt cannot be rendered as it is written.
        """
        prompts = (item.prompt, item.negative_prompt) if item.guidance_scale > 1 else (item.prompt,)
        for prompt in prompts:
            for problem in prompt_problems(prompt, syntax=item.prompt_syntax, num_frames=item.num_frames):
                raise UserError(problem)
        num_chunks = max(map(self._count_chunks, item.texts)) if item.prompt_syntax == "a1111" else 1
        found = [self._encoded(prompt, item, num_chunks) for prompt in prompts]
        if self._zeroes_empty_negative and not any(texts_by_frame(item.negative_prompt).values()):
            found[1:] = [found[0].zeros() for _ in found[1:]]
        if any(encoded.text.ndim == 4 for encoded in found):
            found = [encoded if encoded.text.ndim == 4 else _at_frames(encoded, item.num_frames) for encoded in found]
        positive, *negative = (Conditioning(*encoded.to(self._dtype)) for encoded in found)
        return replace(positive, negative=negative[0] if negative else None)

    def warnings(self, item: Item) -> str | None:
        """Return what of an item's prompts is not read, or otherwise than other programs do, in one line."""
        found = [prompt_syntax.warning(text, item.prompt_syntax) for text in item.texts]
        if item.prompt_syntax == "plain":
            found = [line for pair in zip(found, map(self._encoders.cut_off, item.texts), strict=True) for line in pair]
        return "; ".join(line for line in found if line) or None

    def _count_chunks(self, text: str) -> int:
        return self._encoders.count_chunks(a1111_syntax.parse(text))

    def _encoded(self, prompt: str, item: Item, num_chunks: int) -> EncodedPrompt:
        """Return a prompt's embeddings; those of one whose texts differ are a frame's each, (1 f n d) and (1 f p).

        The pooled embedding travels as the text does: SDXL adds it to what each frame is told of the timestep, and at
        its own frame a text is then all that it is alone.
        """
        texts = texts_by_frame(prompt)
        keys = {frame: self._encode(text, item, num_chunks) for frame, text in texts.items()}
        if len(set(texts.values())) == 1:
            return next(iter(keys.values()))

        def of_frames(embeddings: dict[int, Tensor]) -> Tensor:
            return embeddings_of_frames(embeddings, item.num_frames, item.travel or Travel(), loop=item.loop)

        text = of_frames({frame: encoded.text[0] for frame, encoded in keys.items()})
        pooled = {frame: encoded.pooled for frame, encoded in keys.items() if encoded.pooled is not None}
        return EncodedPrompt(text[None], of_frames(pooled).transpose(0, 1) if pooled else None)  # f 1 p -> 1 f p

    @torch.no_grad()
    def _encode(self, text: str, item: Item, num_chunks: int) -> EncodedPrompt:
        """Return a text's embeddings, encoded by itself, since a matrix product rounds by its number of rows."""
        key = (self.cache_key, item.clip_skip, item.prompt_syntax, num_chunks, text)
        if key not in self._cache:
            self._cache[key] = (
                self._encoders.encode(text, item.clip_skip)
                if item.prompt_syntax == "plain"
                else self._encoders.encode_chunks(a1111_syntax.parse(text), item.clip_skip, num_chunks=num_chunks)
            )
            if len(self._cache) > _MAX_CACHED_PROMPTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]


def _at_frames(encoded: EncodedPrompt, num_frames: int) -> EncodedPrompt:
    """Return the embeddings of one text, for all frames."""
    text = encoded.text[:, None].expand(-1, num_frames, -1, -1)
    return EncodedPrompt(text, None if encoded.pooled is None else encoded.pooled[:, None].expand(-1, num_frames, -1))
