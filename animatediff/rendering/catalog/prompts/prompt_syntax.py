"""Prompts with other programs' syntax (weights, `<lora:...>`, `BREAK`): what is read as characters, or refused."""

import re
from collections.abc import Iterable, Iterator

from animatediff.rendering.catalog.prompts.prompt_text import PromptSyntax
from animatediff.weights.identify.weights_slots import field_for

_MAX_SHOWN = 3
_MAX_CHARS = 80
_ESCAPED = re.compile(r"\\[()\[\]{}|:<>\\]")

# What has a mark that ordinary language has not, however it is punctuated. Plain parentheses, times, ratios, emoticons
# and tokens in angle brackets are ordinary; `[V]` is how papers write a rare word.
_NETWORK = r"(?i:<(?P<kind>lora|lyco|hypernet)\s*:(?P<name>[^<>:\n]*)(?::(?P<scale>[^<>:\n]*))?[^<>\n]*>)"
_OF_A1111 = tuple(
    re.compile(pattern)
    for pattern in (
        _NETWORK,
        # A1111's and ComfyUI's weight: its number follows a word, for 16:9 and 10:30 are none.
        r"\((?:[^()]|\([^()]*\))*?(?:[^\d\s()]\s*:\s*[+-]?(?:\d+\.?\d*|\.\d+)|:\s*[+-]?\d*\.\d+)\s*\)",
        r"\([^()]*\((?:[^()]|\([^()]*\))*\)[^()]*\)+",  # 1.1 times as strong for each pair
        r"\[+(?![A-Z]\d?\*?\])[^\[\]]*[^\[\]\s][^\[\]]*\]+",  # weaker, [from:to:when], [a|b]
    )
)
_OF_OTHERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?i:(?<!\w)embedding:[\w<./-]+)",  # ComfyUI
        r"\)(?:\++|--+|\d*\.\d+)(?!\w)|\b\w{2,}\+\++(?!\w)",  # compel, InvokeAI
        r"\{+[^{}]*[^{}\s][^{}]*\}+",  # NovelAI's weight, dynamic prompts' {a|b}, a template's place that nobody filled
        r"(?<!\w)__[\w/*-]*[^\W_][\w/*-]*?__(?!\w)",  # a file of words
        r"\w::-?\d*\.?\d+|(?<!\S)--(?:ar|aspect|chaos|iw|niji|no|seed|stop|style|stylize|tile|v|version|weird)\b",
    )
)
# Words of A1111's that are words of the language too: in a text all in capitals they mean themselves.
_WORDS = re.compile(r"\b(?:BREAK|AND)\b")
_STEPS = re.compile(r"\||:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*$")
_REMEDIES = {
    "<": f"name LoRAs in `{field_for('lora')}`",
    "embedding:": f"name embeddings in `{field_for('textual_inversion')}`, write the word alone",
}


def find(text: str, syntax: PromptSyntax = "plain") -> list[str]:
    """Return the places of a prompt that other programs read as weights or commands, as they are written.

    Ordinary parentheses, and brackets behind a backslash, are none; nor is what the prompt's own syntax knows.
    """
    masked = _ESCAPED.sub("  ", text)
    patterns = _OF_OTHERS
    if syntax == "plain":
        patterns += _OF_A1111 if masked.isupper() else (*_OF_A1111, _WORDS)
    # Of places within each other the outermost, of equal ones the first.
    spans = sorted((match.span() for pattern in patterns for match in pattern.finditer(masked)), key=_outermost_first)
    found, end = [], 0
    for first, last in spans:
        if last > end:
            found.append(text[first:last])
            end = last
    return found


def warning(text: str, syntax: PromptSyntax = "plain") -> str | None:
    """Return one line on what of a prompt is read as plain characters, and what to do; None where nothing is."""
    found = find(text, syntax)
    return f"prompt {_short(text)!r}: {_told(found)}" if found else None


def report(prompts: Iterable[str], syntax: PromptSyntax = "plain") -> str | None:
    """Return one line on all those of many prompts that have such places; None where none has."""
    texts = dict.fromkeys(prompts)
    found = {text: places for text in texts if (places := find(text, syntax))}
    if not found:
        return None
    places = list(dict.fromkeys(place for all_places in found.values() for place in all_places))
    return f"{len(found)} of {len(texts)} prompts, such as {_short(next(iter(found)))!r}: {_told(places)}"


def refusal(text: str) -> str | None:
    """Return what a prompt in A1111's syntax asks for that there is not here, and what to write; None where all is."""
    masked = _ESCAPED.sub("  ", text)
    found = [f"{match[0]!r}: {_instead_of_network(match)}" for match in re.finditer(_NETWORK, masked)]
    for first, last in _brackets_of_steps(masked):
        found.append(
            f"{_short(text[first:last])!r} changes the prompt between a picture's steps: write one of its texts, or "
            r"for a change over the clip `prompt: {0: ..., 24: ...}`; brackets as characters are \[ and \]"
        )
    if re.search(r"\bAND\b", masked):
        found.append("'AND' composes several prompts: write 'and'")
    return f"prompt {_short(text)!r}: {'; '.join(found[:_MAX_SHOWN])}" if found else None


def _instead_of_network(match: re.Match[str]) -> str:
    if match["kind"].lower() == "hypernet":
        return "there are no hypernetworks here, leave it out"
    name, scale = match["name"].strip(), (match["scale"] or "").strip() or "1"
    return f"name the file in `{field_for('lora')}`, as {{path: {name}.safetensors, scale: {scale}}}, and leave it out"


def _brackets_of_steps(masked: str) -> Iterator[tuple[int, int]]:
    """Yield the spans of `[from:to:when]`, `[to:when]` and `[a|b]`, whatever brackets are inside."""
    opened: list[tuple[int, list[str]]] = []
    for place, character in enumerate(masked):
        if character in "([":
            opened.append((place, []))
        elif character in ")]" and opened and masked[opened[-1][0]] == {")": "(", "]": "["}[character]:
            first, inside = opened.pop()
            if character == "]" and _STEPS.search("".join(inside)):
                yield first, place + 1
        elif opened:
            opened[-1][1].append(character)


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
