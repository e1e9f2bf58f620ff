r"""A1111's prompt syntax: weights and forced chunks, read into weighted pieces.

    (words)        1.1 times as strong        (words:1.3)    1.3 times as strong
    [words]        1 / 1.1 times as strong    \( \) \[ \] \\ the character itself
    BREAK          what follows begins the next chunk

Brackets nest, and their factors multiply. One that is never closed runs to the prompt's end, one that was never opened
is a character. Source: AUTOMATIC1111/stable-diffusion-webui, modules/prompt_parser.py; it reads a BREAK inside brackets
as the word, which is a chunk's end here as well, and fails at a factor such as 1.2.3, which is text here.

The program's other marks (`<lora:...>`, `[a:b:0.3]`, `[a|b]`, `AND`) are no weights: this grammar does not know them,
and `rendering.catalog.prompts.prompt_syntax` refuses them.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from animatediff.models.prompts.pieces import Piece, Sections

_STRONGER = 1.1
_MARKS = re.compile(
    r"""\\(?P<escaped>[()\[\]\\]?)
    | (?P<open>[(\[])
    | (?P<factor>:\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))\s*\))
    | (?P<close>[)\]])
    | (?P<break>\s*\bBREAK\b\s*)""",
    re.VERBOSE,
)
_OPENS = {")": "(", "]": "["}


class _Group(NamedTuple):
    """Pieces that a factor is for, by index."""

    start: int
    end: int
    factor: float


def parse(prompt: str) -> Sections:
    """Read a prompt.

    Returns:
        At least one section; a section's pieces of one weight are joined, and none of them is empty.
    """
    texts: list[str | None] = []  # None is a BREAK
    opened: dict[str, list[int]] = {"(": [], "[": []}
    groups: dict[str, list[_Group]] = {"(": [], "[": []}

    def close(bracket: str, factor: float) -> None:
        groups[bracket].append(_Group(opened[bracket].pop(), len(texts), factor))

    end = 0
    for match in _MARKS.finditer(prompt):
        texts.append(prompt[end : match.start()])
        end, kind = match.end(), match.lastgroup
        if kind == "escaped":
            texts.append(match["escaped"])
        elif kind == "open":
            opened[match["open"]].append(len(texts))
        elif kind == "break":
            texts.append(None)
        elif kind == "factor" and opened["("]:
            close("(", float(match["number"]))
        elif kind == "close" and opened[_OPENS[match["close"]]]:
            close(_OPENS[match["close"]], _factor(_OPENS[match["close"]]))
        else:
            texts.append(match[0])
    texts.append(prompt[end:])
    for bracket, starts in opened.items():
        while starts:
            close(bracket, _factor(bracket))
    weights = [a * b for a, b in zip(*(_products(found, len(texts)) for found in groups.values()), strict=True)]
    return list(_sections(texts, weights))


def escaped(text: str) -> str:
    """Return what is read as this very text, with the weight 1, and has none of the program's other marks either."""
    marked = re.sub(r"[()\[\]\\]", r"\\\g<0>", text)
    # A backslash alone is dropped, so that it can stand within what is not to be a mark.
    return re.sub(r"<(?=\w)|\bBREAK\b|\bAND\b", lambda mark: f"{mark[0][0]}\\{mark[0][1:]}", marked)


def _factor(bracket: str) -> float:
    return _STRONGER if bracket == "(" else 1 / _STRONGER


def _products(groups: Sequence[_Group], number: int) -> Iterator[float]:
    """Yield for each of so many pieces the product of the factors of all groups that it is in.

    The groups of one kind of bracket do not cross. So those that a piece is in are a stack, and it takes one pass.
    """
    coming = sorted((group for group in groups if group.start < group.end), key=lambda group: (group.start, -group.end))
    coming.reverse()
    stack = [(number, 1.0)]  # ends, and the products up to there
    for index in range(number):
        while stack[-1][0] <= index:
            stack.pop()
        while coming and coming[-1].start == index:
            _, end, factor = coming.pop()
            stack.append((end, stack[-1][1] * factor))
        yield stack[-1][1]


def _sections(texts: Sequence[str | None], weights: Sequence[float]) -> Iterator[list[Piece]]:
    section: list[Piece] = []
    weighted = [(text, weight) for text, weight in zip(texts, weights, strict=True) if text != ""]
    for (is_break, weight), run in itertools.groupby(weighted, key=lambda piece: (piece[0] is None, piece[1])):
        if not is_break:
            section.append(Piece("".join(text for text, _ in run if text), weight))
            continue
        for _ in run:
            yield section
            section = []
    yield section
