"""The mailbox between workers and driver: entries one way, a request to stop the other.

It imports nothing, so that its process is there at once.
"""

WorkerEvent = dict[str, object]
"""What the driver is told by one call of `put`. Its keys say which of six kinds it is:

- `step` and numbers: what was measured since the last entry of this kind; at a start `step` and `num_workers` alone.
- `skipped` and `clip_ids`: a step that was skipped, counted from 1, and the clips that are to blame.
- `validated` and others: what `Validator` found of a checkpoint, as it describes.
- `drained`: the step after which a worker's machine was found to be taken away soon, and a checkpoint is saved.
- `checkpoint`: the step of one that is whole on its storage now.
- `damaged`: the name of a checkpoint that could not be read. The workers end, and new ones are started without it.
"""


class WorkerMailbox:
    """An actor that holds what workers say until the driver takes it, and whether the driver wants them to stop."""

    def __init__(self) -> None:
        self._entries: list[WorkerEvent] = []
        self._has_begun = self._is_stopping = False

    def put(self, entry: WorkerEvent) -> None:
        """Add an entry."""
        self._has_begun = True
        self._entries.append(entry)

    def take(self) -> list[WorkerEvent]:
        """Return the entries since the last call."""
        entries, self._entries = self._entries, []
        return entries

    def has_begun(self) -> bool:
        """Whether a worker has put anything."""
        return self._has_begun

    def request_stop(self) -> None:
        """Ask the workers to save and to end."""
        self._is_stopping = True

    def is_stopping(self) -> bool:
        """Whether the workers are to save and to end."""
        return self._is_stopping
