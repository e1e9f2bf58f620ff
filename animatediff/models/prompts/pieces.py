"""What a prompt consists of, whatever syntax it was written in: pieces of text with their weights, in sections."""

from collections.abc import Sequence
from typing import NamedTuple


class Piece(NamedTuple):
    """A part of a prompt, which is tokenised by itself."""

    text: str
    weight: float = 1.0
    """What its tokens' hidden states are multiplied by."""


Sections = Sequence[Sequence[Piece]]
"""The pieces of a prompt; each section but the first begins a chunk of its own."""


def plain_sections(text: str) -> Sections:
    """Return a text without any syntax."""
    return [[Piece(text)]]


def joined(sections: Sections) -> str:
    """Return the text without its weights."""
    return " ".join("".join(piece.text for piece in section) for section in sections)
