"""Captions as text encoders want them: plain text on one line."""

import html
import re
import unicodedata

_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "\u300c": "\u300d"}
_EDGES = frozenset(" " + "".join(_QUOTES))
_MARKS = " " + "".join({*_QUOTES, *_QUOTES.values()})
# References without a semicolon stay: browsers read "R&Discuss" and "?a=1&copy=2" as text as often as not.
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")
# Only HTML's own names: "<sks>" and "<cat-toy>" are words of captions, and "<3" is one too.
_INLINE_TAG = re.compile(
    r"</?(?:a|abbr|b|big|cite|code|del|em|font|i|ins|mark|q|s|small|span|strike|strong|sub|sup|tt|u)(?:[\s/][^<>]*)?>",
    re.IGNORECASE,
)
_BLOCK_TAG = re.compile(
    r"</?(?:blockquote|body|br|caption|center|dd|div|dl|dt|figcaption|figure|h[1-6]|head|hr|html|img|li|ol|p|pre|table"
    r"|tbody|td|th|thead|title|tr|ul|video)(?:[\s/][^<>]*)?>",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_INVISIBLE = re.compile(r"[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_MAX_NESTING = 8
_MAX_MARKS = 64
"""That follow each other on one letter, where languages have four: to put n of them in order takes n x n steps."""


def clean_caption(text: str) -> str:
    """Return the caption's words, nothing added.

    HTML entities become their characters, HTML tags, control and invisible characters go, white space is collapsed,
    quotes around the whole caption are stripped, and Unicode is composed (NFC). Cleaning a clean caption changes
    nothing.

    Raises:
        ValueError: more accents stand on one letter than any language has.
    """
    if _is_clean(text):
        return text
    _check_marks(text)
    for _ in range(_MAX_NESTING):
        cleaned = _clean_once(text)
        if cleaned == text:
            return text
        text = cleaned
    # Escaped or quoted again and again: without the marks, what is left cannot unfold further, and no caption takes
    # as many passes as it has marks.
    return _settle(_clean_once(text.replace("&", " ").replace("<", " ")).strip(_MARKS))


def _check_marks(text: str) -> None:
    if text.isascii() or len(text) <= _MAX_MARKS:
        return
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _MAX_MARKS:
            raise ValueError(f"it has more than {_MAX_MARKS} accents on one letter")


def _is_clean(text: str) -> bool:
    """Whether a plain ASCII caption needs nothing; false says nothing."""
    return (
        text.isascii()
        and text.isprintable()
        and "&" not in text
        and "<" not in text
        and "  " not in text
        and text[:1] not in _EDGES
        and text[-1:] not in _EDGES
    )


def _clean_once(text: str) -> str:
    if "&" in text:
        text = _REFERENCE.sub(lambda match: html.unescape(match[0]), text)
    if "<" in text:
        text = _BLOCK_TAG.sub(" ", _INLINE_TAG.sub("", text))
    text = _INVISIBLE.sub("", _CONTROL.sub(" ", text))
    return _unquote(unicodedata.normalize("NFC", " ".join(text.split())))


def _settle(text: str) -> str:
    while (cleaned := _clean_once(text)) != text:
        text = cleaned
    return text


def _unquote(text: str) -> str:
    """Without the quotes around it; a caption that begins and ends with two quotations keeps its quotes."""
    closing = _QUOTES.get(text[:1])
    if closing is None or len(text) < 2 or text[-1] != closing:
        return text
    marks = text[0] + closing
    inner = text.strip(marks)
    return text if any(mark in inner for mark in marks) else inner.strip()
