"""An item's prompts to what the UNet attends to: one text embedding a clip, or one a frame."""

from collections import OrderedDict
from collections.abc import Hashable

import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.prompt_travel import embeddings_of_frames
from animatediff.diffusion.travel import Travel
from animatediff.errors import UserError
from animatediff.models.prompts import a1111_syntax
from animatediff.models.text_encoder import PromptEncoder
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.prompts import prompt_syntax
from animatediff.rendering.catalog.prompts.prompt_problems import prompt_problems
from animatediff.rendering.catalog.prompts.prompt_text import texts_by_frame

# A prompt's embeddings are 118 KB in half precision; the negative ones and those of a matrix come back all the time.
_MAX_CACHED_PROMPTS = 1024


class PromptConditioner:
    """Encodes the prompts of items, distinct texts once.

    Args:
        encoder: of the base.
    """

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._cache: OrderedDict[tuple[Hashable, ...], Tensor] = OrderedDict()
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
        found = [self._embeddings(prompt, item, num_chunks) for prompt in prompts]
        if any(text.ndim == 4 for text in found):
            found = [text if text.ndim == 4 else text[:, None].expand(-1, item.num_frames, -1, -1) for text in found]
        negative = Conditioning(found[1]) if len(found) > 1 else None
        return Conditioning(found[0], negative=negative)

    def warnings(self, item: Item) -> str | None:
        """Return what of an item's prompts is not read, or otherwise than other programs do, in one line."""
        found = [prompt_syntax.warning(text, item.prompt_syntax) for text in item.texts]
        if item.prompt_syntax == "plain":
            found = [line for pair in zip(found, map(self._encoder.cut_off, item.texts), strict=True) for line in pair]
        return "; ".join(line for line in found if line) or None

    def _count_chunks(self, text: str) -> int:
        return self._encoder.count_chunks(a1111_syntax.parse(text))

    def _embeddings(self, prompt: str, item: Item, num_chunks: int) -> Tensor:
        """Return (1 n d), or (1 f n d) of a prompt whose texts differ."""
        texts = texts_by_frame(prompt)
        keys = {frame: self._encode(text, item, num_chunks) for frame, text in texts.items()}
        if len(set(texts.values())) == 1:
            return next(iter(keys.values()))
        keys = {frame: text[0] for frame, text in keys.items()}
        return embeddings_of_frames(keys, item.num_frames, item.travel or Travel(), loop=item.loop)[None]

    @torch.no_grad()
    def _encode(self, text: str, item: Item, num_chunks: int) -> Tensor:
        """Return (1 n d), encoded by itself, since a matrix product rounds by its number of rows."""
        key = (self.cache_key, item.clip_skip, item.prompt_syntax, num_chunks, text)
        if key not in self._cache:
            self._cache[key] = (
                self._encoder.encode([text], clip_skip=item.clip_skip)
                if item.prompt_syntax == "plain"
                else self._encoder.encode_chunks(a1111_syntax.parse(text), item.clip_skip, num_chunks=num_chunks)
            )
            if len(self._cache) > _MAX_CACHED_PROMPTS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]
