"""Errors that a user can mend: one line that names the thing and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from animatediff.uris import printable_text


class UserError(ValueError):
    """Something the user gave cannot be used (a file, a base model, a bucket). The jobs print it and exit 1.

    Its text becomes rows, pages and lines of logs: whatever it was made from, there is no secret of a URI in it.
    """

    exit_code = 1

    def __init__(self, *texts: Any) -> None:
        super().__init__(*(printable_text(text) if isinstance(text, str) else text for text in texts))


class UsageError(UserError):
    """The command line or a config file is wrong. The jobs print it and exit 2."""

    exit_code = 2


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Begin what is wrong with a value with the field that it was given in."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{field}: {error}") from error
