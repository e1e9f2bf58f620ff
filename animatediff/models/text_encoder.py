"""Prompts to text embeddings, by a base's text encoder and its tokenizer; learned words stand among ordinary ones."""

import itertools
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from animatediff.errors import UserError
from animatediff.models.embedding import Embedding
from animatediff.models.prompts.chunks import Chunk, TokenGroup, cut_into_chunks
from animatediff.models.prompts.emphasis import emphasise
from animatediff.models.prompts.pieces import Sections, joined

_log = logging.getLogger(__name__)

# Not between two characters of one word. At a token's own punctuation, as in <cat-toy>, every place will do.
_EDGE = r"(?!(?<=\w)\w)"
# A data set's captions must not fill the log.
_MAX_WARNINGS = 100
_WIDTHS = {
    768: "Stable Diffusion 1.x, or SDXL's first text encoder",
    1024: "Stable Diffusion 2",
    1280: "SDXL's second text encoder",
}


def check_clip_skip(clip_skip: int, num_layers: int) -> None:
    """Refuse to leave out all layers of a text encoder, or more.

    Raises:
        UserError: so many are to be left out.
    """
    if clip_skip >= num_layers:
        raise UserError(
            f"clip_skip {clip_skip} leaves nothing of the base's text encoder, which has {num_layers} layers: "
            f"set at most {num_layers - 1}"
        )


def uses(prompt: str, token: str) -> bool:
    """Whether a prompt has an embedding's token: as a whole word, in upper or lower case."""
    return re.search(_pattern(token), _normal(prompt), re.IGNORECASE) is not None


class PromptEncoder:
    """Encodes prompts; learned words take their vectors where an ordinary token takes its row of the table.

    Neither the tokenizer nor the encoder is changed: the vectors are put in place of the table's output while a
    prompt is encoded. So the encoder's weights may be swapped, cast and moved at any time.

    Args:
        tokenizer: pads and truncates to its own length (77 for CLIP).
        encoder: gives the device and the dtype.
        part: which of an embedding's vectors are this encoder's: `text_encoder`, or SDXL's `text_encoder_2`.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        encoder: CLIPTextModel | CLIPTextModelWithProjection,
        part: str = "text_encoder",
    ) -> None:
        self._tokenizer, self._encoder, self._part = tokenizer, encoder, part
        # A tokenizer saved without its length claims 10^30.
        self._length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        self._warned: set[str] = set()
        self.set_embeddings(())

    def set_embeddings(self, embeddings: Sequence[Embedding]) -> None:
        """Use these learned words, in place of those set before; () leaves the ordinary ones.

        A word with several vectors counts as that many tokens. Of two words that both fit, the longer is taken.

        Raises:
            UserError: an embedding was made for another text encoder, or two have one token. Nothing has changed then.
        """
        ordered = sorted(embeddings, key=lambda embedding: len(embedding.token), reverse=True)
        tokens = [embedding.token for embedding in ordered]
        for first, second in itertools.pairwise(sorted(tokens, key=word_key)):
            if word_key(first) == word_key(second):
                raise UserError(f"two embeddings have the token {first!r}: give one of them another")
        vectors = [self._fitting(embedding) for embedding in ordered]
        # Row k of the vectors is token id -1 - k, out of the way of every vocabulary.
        rows = itertools.count()
        self._ids = [[-1 - next(rows) for _ in matrix] for matrix in vectors]
        self._names = [token for token, matrix in zip(tokens, vectors, strict=True) for _ in matrix]
        self._vectors = torch.cat([torch.zeros(0, self._table.embedding_dim), *vectors])
        self._words = re.compile("|".join(f"({_pattern(token)})" for token in tokens) or "(?!)", re.IGNORECASE)

    @torch.no_grad()
    def encode(self, texts: list[str], clip_skip: int = 0) -> Tensor:
        """Text embeddings (b n d): the encoder's last hidden state over the padded prompt.

        What is beyond the tokenizer's length is cut off, with a warning.

        Args:
            texts: b prompts or captions; "" is the unconditional one.
            clip_skip: last layers that are left out; the last norm is applied even so, as in diffusers.

        Raises:
            UserError: the encoder has no more layers than are to be left out.
        """
        return self._hidden([self._padded(text) for text in texts], clip_skip)

    @torch.no_grad()
    def encode_xl(self, texts: list[str]) -> tuple[Tensor, Tensor | None]:
        """Return what SDXL takes of each of its encoders.

        Returns:
            (b n d), the hidden state before the last layer; and (b p), the pooled and projected embedding, of an
            encoder that has a projection.
        """
        return self._hidden_xl([self._padded(text) for text in texts])

    @torch.no_grad()
    def encode_chunks(self, sections: Sections, clip_skip: int = 0, *, num_chunks: int | None = None) -> Tensor:
        """Text embeddings (1 n d) of a prompt of any length: those of its chunks, each encoded by itself.

        Args:
            sections: the prompt's weighted pieces. A chunk's hidden states are brought back to the mean that they had
                without weights.
            clip_skip: as in `encode`.
            num_chunks: so many: empty ones are added, and what is beyond is cut off, with a warning. Default: as many
                as the prompt has.

        Raises:
            UserError: as `encode`.
        """
        chunks = self._chunks(sections, num_chunks)
        hidden = [emphasise(self._hidden([ids], clip_skip), weights, keeps_mean=True) for ids, weights in chunks]
        return torch.cat(hidden, dim=1)

    @torch.no_grad()
    def encode_chunks_xl(self, sections: Sections, *, num_chunks: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return what SDXL takes of each of its encoders, as `encode_xl`, of a prompt of any length.

        Weights multiply the hidden states alone, and no mean is brought back. The pooled embedding is the first
        chunk's.
        """
        chunks = self._chunks(sections, num_chunks)
        encoded = [self._hidden_xl([chunk.ids]) for chunk in chunks]
        pairs = zip(encoded, chunks, strict=True)
        hidden = [emphasise(states, chunk.weights, keeps_mean=False) for (states, _), chunk in pairs]
        return torch.cat(hidden, dim=1), encoded[0][1]

    def count_chunks(self, sections: Sections) -> int:
        """Return how many chunks a prompt has, at least one."""
        return len(self._cut(sections))

    def cut_off(self, text: str) -> str | None:
        """Return what `encode` leaves out of a prompt, in one line; None if it reads all of it."""
        return self._cut_off(text, self._tokens(text))

    def _hidden(self, ids: list[list[int]], clip_skip: int) -> Tensor:
        if not clip_skip:
            return self._run(ids).last_hidden_state
        check_clip_skip(clip_skip, self._encoder.config.num_hidden_layers)
        hidden = self._run(ids, output_hidden_states=True).hidden_states[-(clip_skip + 1)]
        return self._last_norm(hidden)

    def _hidden_xl(self, ids: list[list[int]]) -> tuple[Tensor, Tensor | None]:
        out = self._run(ids, output_hidden_states=True)
        return out.hidden_states[-2], getattr(out, "text_embeds", None)

    def _run(self, ids: list[list[int]], **options: bool) -> Any:
        places = [(row, column) for row, tokens in enumerate(ids) for column, i in enumerate(tokens) if i < 0]

        def put_vectors(_module: object, _args: object, hidden: Tensor) -> Tensor:
            for row, column in places:
                hidden[row, column] = self._vectors[-1 - ids[row][column]]
            return hidden

        # Any ordinary id will do beneath a vector; the pooled output looks for the end token's, or the highest.
        ordinary = torch.tensor(ids).clamp(min=0).to(self._encoder.device)
        with self._table.register_forward_hook(put_vectors):
            return self._encoder(ordinary, **options)

    @property
    def _room(self) -> int:
        """Tokens between start and end."""
        return self._length - 2

    @property
    def _last_norm(self) -> torch.nn.Module:
        # transformers' versions differ in what is around it.
        modules = self._encoder.named_modules()
        return next(module for name, module in modules if name.split(".")[-1] == "final_layer_norm")

    @property
    def _table(self) -> torch.nn.Embedding:
        return self._encoder.get_input_embeddings()

    def _fitting(self, embedding: Embedding) -> Tensor:
        vectors, needed = embedding.vectors.get(self._part), self._table.embedding_dim
        if vectors is None or vectors.shape[1] != needed:
            given = ", ".join(f"{_width(rows.shape[1])} for the {part}" for part, rows in embedding.vectors.items())
            raise UserError(
                f"embedding {embedding.token!r} does not fit: its vectors are {given}; "
                f"the base's {self._part} takes {_width(needed)}"
            )
        return vectors

    def _padded(self, text: str) -> list[int]:
        ids, room = self._tokens(text), self._room
        if cut_off := self._cut_off(text, ids):
            self._warn(text, cut_off)
        return self._framed(ids[:room])

    def _framed(self, ids: list[int]) -> list[int]:
        """Return at most `_room` ids with start, end and padding."""
        tokenizer = self._tokenizer
        padding = [tokenizer.pad_token_id] * (self._room - len(ids))
        return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]

    def _chunks(self, sections: Sections, num_chunks: int | None) -> list[Chunk]:
        """Return the chunks of a prompt with start, end and padding, whose weight is 1."""
        chunks = self._cut(sections)
        num_chunks = num_chunks or len(chunks)
        if beyond := [i for chunk in chunks[num_chunks:] for i in chunk.ids]:
            text = joined(sections)
            told = f"{len(chunks)} chunks of at most {self._room} tokens, {num_chunks} are read"
            self._warn(text, f"prompt {text!r} has {told}; cut off: {self._spell(beyond)!r}")
        chunks = chunks[:num_chunks] + [Chunk([], [])] * (num_chunks - len(chunks))
        ones = [1.0] * self._length
        return [Chunk(self._framed(ids), [1.0, *weights, *ones][: self._length]) for ids, weights in chunks]

    def _cut(self, sections: Sections) -> list[Chunk]:
        comma, *others = self._ordinary(",")
        units = [
            [TokenGroup(ids, piece.weight) for piece in section for ids in self._words_and_tokens(piece.text)]
            for section in sections
        ]
        return cut_into_chunks(units, self._room, comma if not others else None)

    def _tokens(self, text: str) -> list[int]:
        """Return the words' ids, without start and end; learned ones are negative."""
        return list(itertools.chain.from_iterable(self._words_and_tokens(text)))

    def _words_and_tokens(self, text: str) -> Iterator[list[int]]:
        """Yield the ids of each learned word together, and the ordinary tokens one by one.

        CLIP's tokenizer never joins what a space parts, so the text around a learned word can be read by itself.
        """
        text, end = _normal(text), 0
        for match in self._words.finditer(text):
            yield from ([i] for i in self._ordinary(text[end : match.start()]))
            yield self._ids[(match.lastindex or 0) - 1]
            end = match.end()
        yield from ([i] for i in self._ordinary(text[end:]))

    def _ordinary(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _spell(self, ids: list[int]) -> str:
        runs = itertools.groupby(ids, key=lambda i: self._names[-1 - i] if i < 0 else None)
        return " ".join(name or self._tokenizer.decode(list(run)) for name, run in runs)

    def _cut_off(self, text: str, ids: list[int]) -> str | None:
        room = self._room
        if len(ids) <= room:
            return None
        return f"prompt {text!r} has {len(ids)} tokens, {room} are read; cut off: {self._spell(ids[room:])!r}"

    def _warn(self, text: str, warning: str) -> None:
        if text in self._warned or len(self._warned) >= _MAX_WARNINGS:
            return
        self._warned.add(text)
        last = " (more such prompts are not named)" if len(self._warned) == _MAX_WARNINGS else ""
        _log.warning("%s%s", warning, last)


def _normal(text: str) -> str:
    """As the tokenizer does first of all, so that an accent is part of its letter's word."""
    return unicodedata.normalize("NFC", text)


def _width(width: int) -> str:
    return f"{width} wide ({_WIDTHS[width]})" if width in _WIDTHS else f"{width} wide"


def word_key(token: str) -> str:
    """Return what is the same for words that are one in prompts."""
    return " ".join(_normal(token).casefold().split())


def _pattern(token: str) -> str:
    return _EDGE + r"\s+".join(map(re.escape, _normal(token).split())) + _EDGE
