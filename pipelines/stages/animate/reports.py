"""Reports of an animate job: table and gallery from time to time while it goes on, and what it says at its end."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.results.reports import GALLERY
from animatediff.rendering.results.result import Result
from animatediff.rendering.results.table import TABLE

logger = logging.getLogger(__name__)

# A long job shows what it has, but is not to spend more than a small part of its time on that.
_FIRST_S, _SHARE = 30.0, 0.02


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


def log_counts_and_raise_if_failed(output_uri: str, counts: Counter[str], results: Iterator[Result]) -> None:
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
