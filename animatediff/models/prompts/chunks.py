"""Prompts of any length: tokens cut into chunks, each of which the text encoder reads by itself."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_MOST_BEHIND_COMMA = 20
"""A comma among so many last tokens of a full chunk moves what is behind it to the next; 20 is A1111's
default."""


class Chunk(NamedTuple):
    """What the text encoder reads at once, without start, end and padding."""

    ids: list[int]
    weights: list[float]
    """One a token."""


class TokenGroup(NamedTuple):
    """Tokens that stay in one chunk: an ordinary one, or all vectors of a learned word."""

    ids: list[int]
    weight: float


def cut_into_chunks(sections: Sequence[Iterable[TokenGroup]], room: int, comma: int | None) -> list[Chunk]:
    """Cut a prompt's tokens into chunks as A1111 does.

    A chunk is filled up. When the next token does not fit and a comma is among the last 20, what is behind the comma
    moves on; a learned word that does not fit begins the next chunk. Each section begins a chunk. Source:
    AUTOMATIC1111/stable-diffusion-webui, modules/sd_hijack_clip.py, `tokenize_line`.

    Args:
        sections: of the prompt, at least one.
        room: tokens of a chunk: 75 for CLIP.
        comma: the comma's token, if there is one.

    Returns:
        At least one chunk; the empty prompt is an empty one.
    """
    *first, last = (_cut_section(units, room, comma) for units in sections)
    chunks = [chunk for section in first for chunk in section or [Chunk([], [])]]
    return chunks + last or [Chunk([], [])]


def _cut_section(units: Iterable[TokenGroup], room: int, comma: int | None) -> list[Chunk]:
    chunks: list[Chunk] = []
    behind_comma: int | None = None  # of the last chunk, the index behind its last comma

    def begin(moved: Chunk) -> None:
        nonlocal behind_comma
        chunks.append(moved)
        behind_comma = None

    for ids, weight in _that_fit(units, room):
        is_comma = ids == [comma]
        if not chunks:
            begin(Chunk([], []))
        is_full = len(chunks[-1].ids) == room
        if is_full and not is_comma and behind_comma is not None and room - behind_comma < _MOST_BEHIND_COMMA:
            begin(_split_off(chunks[-1], behind_comma))
        if len(chunks[-1].ids) + len(ids) > room:
            begin(Chunk([], []))
        chunks[-1].ids.extend(ids)
        chunks[-1].weights.extend([weight] * len(ids))
        if is_comma:
            behind_comma = len(chunks[-1].ids)
    return chunks


def _split_off(chunk: Chunk, start: int) -> Chunk:
    """Take the tokens from `start` on out of a chunk, and return them as one."""
    moved = Chunk(chunk.ids[start:], chunk.weights[start:])
    del chunk.ids[start:], chunk.weights[start:]
    return moved


def _that_fit(units: Iterable[TokenGroup], room: int) -> Iterator[TokenGroup]:
    """Yield the units; one that is longer than a chunk in parts."""
    for ids, weight in units:
        for start in range(0, len(ids), room):
            yield TokenGroup(ids[start : start + room], weight)
