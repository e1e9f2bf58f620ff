"""Errors that a user can mend: one line that names the thing and the remedy."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from animatediff.uris import printable_text

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MOST_CHARS = 300
_MOST_OF_A_LINE = 8000  # twenty problems of a catalog are told in one
_MOST_TO_SEARCH = 1_000_000


class UserError(ValueError):
    """Something the user gave cannot be used (a file, a base model, a bucket). The jobs print it and exit 1.

    Its text becomes rows, pages and lines of logs, and what it quotes may be a stranger's, of any length: it is
    `printed`.
    """

    exit_code = 1

    def __init__(self, *texts: Any) -> None:
        super().__init__(*(printed(text) if isinstance(text, str) else text for text in texts))


class UsageError(UserError):
    """The command line or a config file is wrong. The jobs print it and exit 2."""

    exit_code = 2


def printed(text: str, most: int = _MOST_OF_A_LINE) -> str:
    """Return a text as one line that any log, table and page can hold.

    There is no secret of a URI in it, whatever it was made from. Of one over `most` characters the beginning, which
    names the thing, and the end, the remedy, are left; control characters, and halves of characters, which no file can
    be written with, are spaces.
    """
    # What is cut is searched before: half a secret would not be found.
    text = printable_text(_bounded(text, _MOST_TO_SEARCH))
    return _UNPRINTABLE.sub(" ", _bounded(text, most))


def _bounded(text: str, most: int) -> str:
    half = most // 2
    return text if len(text) <= most else f"{text[: half - 10]} [...] {text[10 - half :]}"


@contextmanager
def errors_with_field(field: str) -> Iterator[None]:
    """Put the name of a config field before the text of every `UserError` that the block raises."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{field}: {error}") from error


@contextmanager
def any_error_as_user_error(what: str, reason: Callable[[BaseException], str] | None = None) -> Iterator[None]:
    """Raise whatever a stranger's file makes a library raise as a `UserError`: a line of `what`, and the reason.

    The panics of libraries in Rust are no `Exception`; they are told as well. What stops the process passes through.

    Args:
        what: what was done with which file.
        reason: what is told of an error; default: `one_line`.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{what}: {(reason or one_line)(error)}") from error


def one_line(error: BaseException) -> str:
    """Return what an error says, without line breaks and not too long; of a library's bare word, its kind, too."""
    try:
        text = " ".join(printed(str(error)).split())[:_MOST_CHARS]
    except Exception:  # of what cannot be printed, such as a number of 5,000 digits
        text = ""
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
