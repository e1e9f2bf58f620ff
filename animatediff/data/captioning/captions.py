"""What is asked of a captioner, and what comes of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np


class CaptionReason(StrEnum):
    """Why a shot has no caption."""

    EMPTY = "caption_empty"
    """The answer has no words, or only those of the question."""
    REFUSED = "caption_refused"
    """The model or its server refuses to describe it."""
    CUT = "caption_cut"
    """The answer ends at `max_tokens` before its first sentence, or its thinking, does."""
    REPEATS = "caption_repeats"
    """The answer says the same again and again."""
    LANGUAGE = "caption_language"
    """English was asked for, and another script came back."""
    FAILED = "caption_failed"
    """The server or function failed on this shot, and not on others."""


@dataclass(frozen=True)
class CaptionRequest:
    """A shot to be captioned."""

    shot_id: str
    frames: np.ndarray
    """(f h w 3) uint8 RGB, spread over the shot in order: as many and as large as the config says."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known of it, for a user's own function."""


@dataclass(frozen=True)
class Usage:
    """What an answer cost."""

    prompt_tokens: int = 0
    answer_tokens: int = 0
    num_tries: int = 1
    duration_s: float = 0
    """From the first try to the answer, waiting included; in a batch, a shot's share of it."""


@dataclass(frozen=True)
class Answer:
    """What a model says of a shot, as it says it."""

    shot_id: str
    text: str
    model: str
    """What the model calls itself."""
    tags: tuple[str, ...] = ()
    is_cut: bool = False
    """It ends at the limit of tokens."""
    reason: CaptionReason | None = None
    """Why there is no text, where the text cannot tell."""
    detail: str = ""
    """That reason as one line for a person."""
    usage: Usage = Usage()


@dataclass(frozen=True)
class CaptionResult:
    """What a shot's row is told: its caption, or the reason that there is none."""

    shot_id: str
    caption: str
    """The template, filled; empty where there is a reason."""
    tags: tuple[str, ...]
    """The most important first, also where there is no caption."""
    model: str
    """What wrote it; with a tagger beside it `writer + tagger`."""
    reason: CaptionReason | None
    detail: str
    """The reason as one line for a person."""
    num_tokens: int | None
    """Of the caption, by the tokenizer that the captioner was given."""
    usage: Usage


class CaptionModel(Protocol):
    """What answers requests: each source of captions is one."""

    def answers(self, requests: Iterable[CaptionRequest]) -> Iterator[Answer]:
        """Yield an answer to each request, in any order, and read no more requests than can be worked on.

        Raises:
            UserError: it is of no use to ask for others; all answers that are there were yielded before.
        """
