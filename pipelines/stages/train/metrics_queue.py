"""The queue from a worker to the driver, and back whether to stop. It imports nothing, to be there at once."""

from typing import Any


class MetricsQueue:
    """An actor that holds what workers say until the driver takes it, and whether the driver wants them to stop."""

    def __init__(self) -> None:
        self._entries: list[dict[str, Any]] = []
        self._has_begun = self._is_stopping = False

    def put(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        self._has_begun = True
        self._entries.append(entry)

    def take(self) -> list[dict[str, Any]]:
        """Return the entries since the last call."""
        entries, self._entries = self._entries, []
        return entries

    def stop(self) -> bool:
        """Ask the workers to save and to end; return whether they have begun."""
        self._is_stopping = True
        return self._has_begun

    def is_stopping(self) -> bool:
        """Whether the workers are to save and to end."""
        return self._is_stopping
