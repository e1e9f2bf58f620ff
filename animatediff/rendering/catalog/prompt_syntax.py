"""Prompts with other programs' syntax (weights, `<lora:...>`, `BREAK`): what of it is read as plain characters here."""

import re
from collections.abc import Iterable

from animatediff.rendering.catalog.item import Item
from animatediff.weights.identify.weights_slots import field_for

_MAX_SHOWN = 3
_MAX_CHARS = 80
_ESCAPED = re.compile(r"\\[()\[\]{}|:<>\\]")

# What has a mark that ordinary language has not, however it is punctuated. Plain parentheses, times, ratios, emoticons
# and tokens in angle brackets are ordinary; `[V]` is how papers write a rare word.
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?i:<(?:lora|lyco|hypernet)\s*:[^<>\n]*>)",  # A1111's extra networks
        r"(?i:(?<!\w)embedding:[\w<./-]+)",  # ComfyUI
        # A1111's and ComfyUI's weight: its number follows a word, for 16:9 and 10:30 are none.
        r"\((?:[^()]|\([^()]*\))*?(?:[^\d\s()]\s*:\s*[+-]?(?:\d+\.?\d*|\.\d+)|:\s*[+-]?\d*\.\d+)\s*\)",
        r"\([^()]*\((?:[^()]|\([^()]*\))*\)[^()]*\)+",  # A1111: 1.1 times as strong for each pair
        r"\)(?:\++|--+|\d*\.\d+)(?!\w)|\b\w{2,}\+\++(?!\w)",  # compel, InvokeAI
        r"\[+(?![A-Z]\d?\*?\])[^\[\]]*[^\[\]\s][^\[\]]*\]+",  # A1111: weaker, [from:to:when], [a|b]
        r"\{+[^{}]*[^{}\s][^{}]*\}+",  # NovelAI's weight, dynamic prompts' {a|b}, a template's place that nobody filled
        r"(?<!\w)__[\w/*-]*[^\W_][\w/*-]*?__(?!\w)",  # a file of words
        r"\w::-?\d*\.?\d+|(?<!\S)--(?:ar|aspect|chaos|iw|niji|no|seed|stop|style|stylize|tile|v|version|weird)\b",
    )
)
# Words of A1111's that are words of the language too: in a text all in capitals they mean themselves.
_WORDS = re.compile(r"\b(?:BREAK|AND)\b")
_REMEDIES = {
    "<": f"name LoRAs in `{field_for('lora')}`",
    "embedding:": f"name embeddings in `{field_for('textual_inversion')}`, write the word alone",
}


def find(text: str) -> list[str]:
    """Return the places of a prompt that other programs read as weights or commands, as they are written.

    Ordinary parentheses, and brackets behind a backslash, are none.
    """
    masked = _ESCAPED.sub("  ", text)
    patterns = _PATTERNS if masked.isupper() else (*_PATTERNS, _WORDS)
    # Of places within each other the outermost, of equal ones the first.
    spans = sorted((match.span() for pattern in patterns for match in pattern.finditer(masked)), key=_outermost_first)
    found, end = [], 0
    for first, last in spans:
        if last > end:
            found.append(text[first:last])
            end = last
    return found


def warning(text: str) -> str | None:
    """Return one line on what of a prompt is read as plain characters, and what to do; None where nothing is."""
    found = find(text)
    return f"prompt {_short(text)!r}: {_told(found)}" if found else None


def report(prompts: Iterable[str]) -> str | None:
    """Return one line on all those of many prompts that have such places; None where none has."""
    texts = dict.fromkeys(prompts)
    found = {text: places for text in texts if (places := find(text))}
    if not found:
        return None
    places = list(dict.fromkeys(place for all_places in found.values() for place in all_places))
    return f"{len(found)} of {len(texts)} prompts, such as {_short(next(iter(found)))!r}: {_told(places)}"


def texts_of(item: Item) -> tuple[str, ...]:
    """Return the texts that an item's frames depend on: without guidance the negative prompt is not used."""
    return (item.prompt, item.negative_prompt) if item.guidance_scale > 1 else (item.prompt,)


def _told(places: list[str]) -> str:
    shown = ", ".join(map(repr, map(_short, places[:_MAX_SHOWN])))
    more = f" and {len(places) - _MAX_SHOWN} more" if len(places) > _MAX_SHOWN else ""
    remedies = [told for mark, told in _REMEDIES.items() if any(place.lower().startswith(mark) for place in places)]
    return (
        f"{shown}{more} is another program's syntax and read as plain characters, which changes the picture: "
        f"{'; '.join(['write plain words', *remedies])}"
    )


def _outermost_first(span: tuple[int, int]) -> tuple[int, int]:
    return span[0], -span[1]


def _short(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}..."
