"""The queue that takes metrics from a worker to the driver. It imports nothing, so that the actor is there at once."""

MetricsEntry = dict[str, object]
"""What the driver is told by one call of `put`. Its keys say which of four kinds it is:

- `step` and numbers: what was measured since the last entry of this kind; `step` alone at a start.
- `skipped` and `clip_ids`: a step that was skipped, counted from 1, and the clips that are to blame.
- `validated` and others: what `Validator` found of a checkpoint, as it describes.
- `damaged`: the name of a checkpoint that could not be read. The workers end, and new ones are started without it.
"""


class MetricsQueue:
    """An actor that holds what the workers tell of a run until the driver takes it."""

    def __init__(self) -> None:
        self._entries: list[MetricsEntry] = []

    def put(self, entry: MetricsEntry) -> None:
        """Add an entry."""
        self._entries.append(entry)

    def take(self) -> list[MetricsEntry]:
        """Return the entries since the last call."""
        entries, self._entries = self._entries, []
        return entries
