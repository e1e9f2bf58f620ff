"""Models' answers as captions: mended where only their form is wrong, rejected where there is no caption in them."""

import json
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from animatediff.data.captioning.captions import CaptionReason
from animatediff.data.sources.captions import clean_caption

_MOST_CHARS = 20_000
"""Of an answer that is looked at."""

_THINKING = ("think", "thinking", "reasoning")
_SPECIAL_TOKEN = re.compile(r"<\|[^<>|]{1,40}\|>|</?s>|\[/?INST\]")

_FENCE = re.compile(r"^\s*```[\w-]*\s*$|```", re.MULTILINE)
_LINE_MARK = re.compile(r"^\s*(?:#{1,6}\s+|>\s+|[-*\u2022\u2013]\s+|\d{1,2}[.)]\s+)", re.MULTILINE)
_EMPHASIS = re.compile(r"(\*{1,3}|__|`)(?=\S)(.{1,500}?)(?<=\S)\1", re.DOTALL)
_KEYS = ("caption", "description", "text", "answer")

_MEDIUM = r"(?:video|clip|footage|scene|sequence|shot|animation|image|picture|photo|frame|still|screenshot)s?"
_SHOWS = (
    r"(?:shows?|showing|depicts?|depicting|features?|featuring|captures?|capturing|portrays?|portraying|displays?"
    r"|displaying|presents?|presenting|illustrates?|illustrating|begins? with|starts? with|opens? with|is of)"
)
_WHICH = r"(?:(?:the|this|these|a|an|our|given|provided|short|brief|animated|anime|cartoon|video|series of|set of)\s+)*"
_ANNOUNCED = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|absolutely)\b[!,.:]?\s*)?"
    r"(?:here(?:['\u2019]s| is| are)\b[^.:]{0,80}:"
    r"|(?:the\s+)?(?:final\s+)?(?:video\s+)?(?:caption|description|answer)\s*:"
    r"|(?:sure|certainly|of course|okay|absolutely)[!,.:])\s*",
    re.IGNORECASE,
)
_WHAT = rf"{_WHICH}{_MEDIUM}(?:\s+{_MEDIUM})?"
_OPENINGS = (
    re.compile(rf"^{_WHAT}(?:\s+of\s+{_WHAT})?\s+(?:appears? to\s+)?{_SHOWS}\s*(?:that\s+)?", re.IGNORECASE),
    re.compile(rf"^(?:this|it) is {_WHAT}\s+(?:of|{_SHOWS})\s+", re.IGNORECASE),
    re.compile(
        rf"^(?:in|throughout|across|over)\s+{_WHAT}(?:\s*,\s*(?:we(?: can)? see\s+)?|\s+we(?: can)? see\s+)",
        re.IGNORECASE,
    ),
    re.compile(r"^we (?:can )?see\s+", re.IGNORECASE),
)

_REFUSAL = re.compile(
    r"^(?:(?:i'?m|i am)\s+(?:very\s+|really\s+|so\s+)?(?:sorry|unable|not able|afraid)\b"
    r"|(?:i|we)\s+(?:can'?t|cannot|can not|could not|couldn'?t|won'?t|will not|do not|don'?t)\b"
    r"|(?:i|we)\s+(?:must decline|apologi[sz]e)\b"
    r"|sorry\s*[,.;:!]|sorry\s+(?:but|about|i)\b|(?:my\s+)?apologies\b|as an ai\b|as a (?:large )?language model\b"
    r"|unfortunately\s*,?\s+(?:i|we|there|no|the|this)\b"
    r"|unable to (?:process|view|see|describe|provide|assist|help|determine|access|comply)\b"
    r"|no (?:image|picture|frame|video|clip)s? (?:is|are|was|were|has been|have been)\b"
    r"|this (?:content|request) (?:violates|cannot|may violate)\b"
    r"|\u62b1\u6b49|\u5bf9\u4e0d\u8d77|\u6211\u65e0\u6cd5|\u7533\u3057\u8a33|\u3054\u3081\u3093)"
    r"|\bplease (?:provide|upload|share|attach)\b.{0,40}\b(?:image|picture|frame|video|clip)s?\b",
    re.IGNORECASE,
)

_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)]*(?=\s|$)|[\u3002\uff01\uff1f]")
_NO_END = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|vs|prof|no)|\b[a-z])\.$", re.IGNORECASE)

_RUN = 4
"""Words of a sequence whose repetition is counted."""
_MOST_REPEATS = 3
_REPEATED_PIECE = re.compile(r"(\S.{0,30}?)\1{7,}")
"""Eight times the same, without spaces in between or with: `haha...`, `!!!!!!!!`."""
_MOST_FOREIGN = 0.2
"""Of the letters: signs in the picture may be quoted."""
_MOST_DETAIL = 80


class Cleaned(NamedTuple):
    """A caption, or the reason that there is none."""

    caption: str
    reason: CaptionReason | None = None
    detail: str = ""
    """The reason as one line for a person."""


def clean_text(text: str) -> Cleaned:
    """Return a person's or a function's caption on one line: nothing is judged but whether there are words."""
    try:
        caption = clean_caption(text[:_MOST_CHARS])
    except ValueError as error:
        return Cleaned("", CaptionReason.REPEATS, str(error))
    if not any(map(str.isalnum, caption)):
        return Cleaned(
            "", CaptionReason.EMPTY, "the answer has no words" + (f": {caption[:_MOST_DETAIL]}" * bool(caption))
        )
    return Cleaned(caption)


def clean_answer(text: str, *, is_cut: bool, prompt: str, is_english: bool) -> Cleaned:
    """Return the caption that a model's answer holds, or why it holds none.

    Mended are: thinking, markdown, JSON, quotes, labels (`Caption:`), openings (`The video shows`), the question before
    the answer, and an answer that was cut after its first sentence.

    Args:
        text: what the model wrote.
        is_cut: whether it ends at the limit of tokens.
        prompt: what it was asked.
        is_english: whether English was asked for.
    """
    said = _without_thinking(text)[:_MOST_CHARS]
    if is_cut and not said.strip():
        return Cleaned("", CaptionReason.CUT, "it was still thinking: raise captions.max_tokens")
    cleaned = clean_text(_without_markdown(_out_of_json(said)))
    if cleaned.reason:
        return cleaned
    caption = _without_prompt(cleaned.caption, prompt)
    if not caption:
        return Cleaned("", CaptionReason.EMPTY, "the question came back")
    told = caption[:_MOST_DETAIL]
    if _REFUSAL.search(caption.replace("\u2019", "'")):
        return Cleaned("", CaptionReason.REFUSED, told)
    if _repeats(caption):
        return Cleaned("", CaptionReason.REPEATS, told)
    caption = _without_opening(caption)
    if is_cut:
        caption = _whole_sentences(caption)
        if not caption:
            return Cleaned("", CaptionReason.CUT, f"raise captions.max_tokens: {told}")
    if is_english and _foreign_share(caption) > _MOST_FOREIGN:
        return Cleaned("", CaptionReason.LANGUAGE, told)
    return clean_text(caption)


def _without_thinking(text: str) -> str:
    for name in _THINKING:
        # Chat templates write the opening tag themselves; a limit of tokens takes the closing one.
        text = text.rpartition(f"</{name}>")[2].partition(f"<{name}>")[0]
    return _SPECIAL_TOKEN.sub(" ", text)


def _out_of_json(text: str) -> str:
    """Return what a JSON object says, of models that answer with one unasked."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start or text[:start].strip("` \n") not in ("", "json"):
        return text
    try:
        content = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return text
    said = [content[key] for key in _KEYS if isinstance(content.get(key), str)]
    said += [value for value in content.values() if isinstance(value, str)]
    return said[0] if said else text


def _without_markdown(text: str) -> str:
    text = _LINE_MARK.sub("", _FENCE.sub(" ", text))
    return _EMPHASIS.sub(r"\2", text)


def _without_prompt(caption: str, prompt: str) -> str:
    asked = " ".join(prompt.split())
    if caption.casefold().startswith(asked.casefold()):
        return caption[len(asked) :].lstrip(" :.-\n").removeprefix("assistant").lstrip(" :")
    return "" if len(caption) > len(asked) // 2 and caption.casefold() in asked.casefold() else caption


def _without_opening(caption: str) -> str:
    rest = _ANNOUNCED.sub("", caption)
    for opening in _OPENINGS:
        rest = opening.sub("", rest, count=1)
    rest = rest.lstrip(" ,:;")
    # An opening that is all there is tells something, too.
    if not any(map(str.isalnum, rest)) or rest == caption:
        return caption
    return clean_caption(rest[0].upper() + rest[1:] if caption[0].isupper() else rest)


def _whole_sentences(caption: str) -> str:
    ends = [match.end() for match in _SENTENCE_END.finditer(caption) if not _NO_END.search(caption[: match.end()])]
    return caption[: ends[-1]] if ends else ""


def _repeats(caption: str) -> bool:
    words = re.findall(r"\w+", caption.casefold())
    runs = Counter(zip(*(words[i:] for i in range(_RUN)), strict=False))
    return max(runs.values(), default=0) > _MOST_REPEATS or _REPEATED_PIECE.search(caption) is not None


def _foreign_share(caption: str) -> float:
    letters = [character for character in caption if character.isalpha()]
    foreign = [letter for letter in letters if not unicodedata.name(letter, "").startswith("LATIN")]
    return len(foreign) / max(1, len(letters))
