"""What people look at after, and during, an animate job: the table of all results and the gallery."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.results.gallery import gallery_html
from animatediff.rendering.results.result import Result
from animatediff.rendering.results.table import TABLE, write_table

logger = logging.getLogger(__name__)

GALLERY = "index.html"
# A page of more is slow to open; the table has all.
_MAX_SHOWN = 20_000
# A long job shows what it has, but is not to spend more than a small part of its time on that.
_FIRST_S, _SHARE = 30.0, 0.02


def write_reports(output_uri: str, results: Iterable[Result]) -> Counter[str]:
    """Write `results.parquet` and `index.html`.

    Args:
        output_uri: the job's output folder.
        results: in the order to show; they are not held beyond what the gallery shows.

    Returns:
        The number of results by status.
    """
    shown: list[Result] = []
    counts: Counter[str] = Counter()

    def seen() -> Iterator[Result]:
        for result in results:
            counts[result.status] += 1
            if len(shown) < _MAX_SHOWN:
                shown.append(result)
            yield result

    write_table(output_uri, seen())
    page = gallery_html(shown)
    storage.write_bytes(storage.join(output_uri, GALLERY), page.encode())
    return counts


class InterimReports:
    """Reports while the job goes on, the rarer the longer they take.

    Args:
        write: writes them.
    """

    def __init__(self, write: Callable[[], object]) -> None:
        self._write = write
        self._next = time.monotonic() + _FIRST_S

    def write_if_due(self) -> None:
        """Write the reports if enough time has gone by since the last ones."""
        start = time.monotonic()
        if start < self._next:
            return
        try:
            self._write()
        except UserError as error:  # the job writes them again
            logger.warning("no table and no gallery for now: %s", error)
        end = time.monotonic()
        self._next = end + max(_FIRST_S, (end - start) / _SHARE)


def report(output_uri: str, counts: Counter[str], results: Iterator[Result]) -> None:
    """Log how many items have a clip, and where the gallery is.

    Raises:
        UserError: some have no clip.
    """
    logger.info(
        "%d clips rendered, %d failed, %d invalid; gallery: %s",
        counts["ok"],
        counts["failed"],
        counts["invalid"],
        storage.join(output_uri, GALLERY),
    )
    if lost := counts["failed"] + counts["invalid"]:
        first = next(result for result in results if result.status != "ok")
        count, table = f"{lost} of {counts.total()} items failed", storage.join(output_uri, TABLE)
        raise UserError(f"{count}, first error (entry {first.entry}): {first.error}; see {table}")
