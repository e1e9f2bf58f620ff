"""The queue that takes metrics from a worker to the driver. It imports nothing, so that the actor is there at once."""


class MetricsQueue:
    """An actor that holds what rank 0 has measured until the driver takes it."""

    def __init__(self) -> None:
        self._entries: list[dict[str, float]] = []

    def put(self, entry: dict[str, float]) -> None:
        """Add an entry."""
        self._entries.append(entry)

    def take(self) -> list[dict[str, float]]:
        """Return the entries since the last call."""
        entries, self._entries = self._entries, []
        return entries
