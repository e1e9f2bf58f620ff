"""What a check finds, and what it says when it cannot look."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Something that would fail, or do harm, where the file is used."""

    file: str
    """Relative to the repository."""
    place: str
    """Where in the file: an object and a field, or a line; empty for the whole of it."""
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place + ': ' if self.place else ''}{self.wrong}; {self.remedy}"


class SkippedError(Exception):
    """A check cannot look, since a tool is not installed; the message names it."""
