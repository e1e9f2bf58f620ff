"""A learned word in prompts: where it stands, and which words are one."""

import re
import unicodedata

# Not between two characters of one word. At a token's own punctuation, as in <cat-toy>, every place will do.
_EDGE = r"(?!(?<=\w)\w)"


def uses(prompt: str, token: str) -> bool:
    """Whether a prompt has an embedding's token: as a whole word, in upper or lower case."""
    return re.search(pattern(token), normal(prompt), re.IGNORECASE) is not None


def normal(text: str) -> str:
    """Return a text as the tokenizer first makes it, so that an accent is part of its letter's word."""
    return unicodedata.normalize("NFC", text)


def word_key(token: str) -> str:
    """Return what is the same for words that are one in prompts."""
    return " ".join(normal(token).casefold().split())


def pattern(token: str) -> str:
    """Return the regular expression of a word in a `normal` text, for upper and lower case."""
    return _EDGE + r"\s+".join(map(re.escape, normal(token).split())) + _EDGE
