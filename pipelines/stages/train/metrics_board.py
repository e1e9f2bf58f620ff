"""How metrics get from a worker to the driver, and back whether to stop. It imports nothing, to be there at once."""


class MetricsBoard:
    """An actor on which rank 0 leaves its metrics for the driver, and the driver its wish to stop."""

    def __init__(self) -> None:
        self._entries: list[dict[str, float]] = []
        self._has_begun = self._stops = False

    def post(self, entry: dict[str, float]) -> None:
        """Leave an entry."""
        self._has_begun = True
        self._entries.append(entry)

    def take(self) -> list[dict[str, float]]:
        """Return the entries since the last call."""
        entries, self._entries = self._entries, []
        return entries

    def stop(self) -> bool:
        """Ask the workers to save and to end; return whether they have begun."""
        self._stops = True
        return self._has_begun

    def stops(self) -> bool:
        """Whether the workers are to save and to end."""
        return self._stops
