"""How metrics get from a worker to the driver. It imports nothing, so that the actor is there at once."""


class MetricsBoard:
    """An actor on which rank 0 leaves its metrics for the driver."""

    def __init__(self) -> None:
        self._entries: list[dict[str, float]] = []

    def post(self, entry: dict[str, float]) -> None:
        """Leave an entry."""
        self._entries.append(entry)

    def take(self) -> list[dict[str, float]]:
        """Return the entries since the last call."""
        entries, self._entries = self._entries, []
        return entries
