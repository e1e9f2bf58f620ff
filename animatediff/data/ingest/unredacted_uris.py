"""URIs of videos that hold secrets: the plan's files have them without, and workers get the rest from the driver."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from animatediff.data.ingest.plan import UnitRef, read_unit
from animatediff.data.sources.spec import SourceVideo
from animatediff.uris import printable_uri


class UnredactedUris:
    """The URIs that the plan has without their secrets, as the source says them. They are in memory alone."""

    def __init__(self) -> None:
        self._uris: dict[str, str] = {}

    def remember(self, batches: Iterable[list[SourceVideo]]) -> Iterator[list[SourceVideo]]:
        """Pass the batches on, and remember the URIs that the plan writes down without their secrets."""
        for batch in batches:
            self._uris.update((v.video_id, v.uri) for v in batch if printable_uri(v.uri) != v.uri)
            yield batch

    def of(self, video_id: str, planned_uri: str) -> str:
        """Return the URI that a video is read from, as the source says it.

        Args:
            video_id: which video.
            planned_uri: what the plan has.
        """
        return self._uris.get(video_id, planned_uri)

    def attach(self, dataset_uri: str, units: Iterable[UnitRef]) -> list[UnitRef]:
        """Return the units with what workers need beside the plan's files to read their videos.

        Raises:
            UserError: the plan cannot be read.
        """
        if not self._uris:
            return list(units)
        return [replace(unit, unredacted_uris=self._of(dataset_uri, unit)) for unit in units]

    def _of(self, dataset_uri: str, unit: UnitRef) -> tuple[str | None, ...]:
        return tuple(self._uris.get(video.video_id) for video in read_unit(dataset_uri, unit).videos)
