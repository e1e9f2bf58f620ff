"""Prompts as catalogs say them: one text for the whole clip, or texts by frame between which the clip travels."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

PromptSyntax = Literal["plain", "a1111"]
"""How prompts are read: every character as itself, or as AUTOMATIC1111's program does."""

# No text for people begins so. In JSON all keys are texts.
_TRAVEL = re.compile(r'\s*\{\s*"\d+"\s*:')


def _as_text(value: Any) -> Any:
    """Return prompts by frame as the text that stands for them; everything else as it is."""
    if isinstance(value, str) and is_travel(value):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f'prompts by frame are a JSON object, such as {{"0": "a", "24": "b"}}: {error}') from error
    if not isinstance(value, Mapping):
        return value
    if not value:
        raise ValueError("prompts by frame need at least one frame, such as {0: a cat}")
    texts = dict(sorted((_frame(key), _text(key, text)) for key, text in value.items()))
    if len(texts) < len(value):
        raise ValueError(f"several prompts are for one frame (got {value!r})")
    return json.dumps(texts, ensure_ascii=False)


PromptText = Annotated[str, BeforeValidator(_as_text)]
"""A text; or in a file a mapping from frames, counted from 0, to texts: `{0: a cat, 24: a dog}`. The latter is kept as
one JSON text, `{"0": "a cat", "24": "a dog"}`, and may be given so: this is what it is in tables, results, the metadata
of clips and digests."""


def are_texts_by_frame(value: Any) -> bool:
    """Whether an entry of a list of prompts is such a mapping. One frame alone is more likely a text without quotes."""
    return isinstance(value, dict) and len(value) > 1 and all(map(_is_frame, value))


def is_travel(prompt: str) -> bool:
    """Whether a prompt gives texts by frame."""
    return _TRAVEL.match(prompt) is not None


def texts_by_frame(prompt: str) -> dict[int, str]:
    """Return the texts of a validated prompt by their frames; one for the whole clip is frame 0's."""
    if not is_travel(prompt):
        return {0: prompt}
    return {int(frame): text for frame, text in json.loads(prompt).items()}


def _is_frame(key: Any) -> bool:
    if isinstance(key, str):  # in JSON
        return key.isascii() and key.isdigit()
    return isinstance(key, int) and not isinstance(key, bool) and key >= 0


def _frame(key: Any) -> int:
    if not _is_frame(key):
        raise ValueError(f"prompts by frame need whole numbers from 0 on as frames (got {key!r})")
    return int(key)


def _text(key: Any, text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"the prompt of frame {key} needs to be a text: put it into quotes (got {text!r})")
    return text
