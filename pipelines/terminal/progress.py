"""Progress of a job: a bar on a terminal, a log line every few seconds elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

_LOG_INTERVAL_S = 10.0


class Progress:
    """Counts finished things; the rate leaves out what was done before the job started.

    Use as a context manager::

        with Progress("encode", total=600, unit="clip") as progress:
            progress.update(32, quarantined=1)

    Args:
        what: the stage, as shown.
        total: things to do; the base of the ETA.
        unit: singular name of a thing.
    """

    def __init__(self, what: str, *, total: int, unit: str) -> None:
        self._what, self.total, self._unit = what, total, unit
        self._done = 0
        self._shown: dict[str, Any] = {}
        self._start = self._last_log = time.monotonic()
        self._bar = tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True, disable=not sys.stderr.isatty())

    @property
    def num_done(self) -> int:
        """Things that are counted."""
        return self._done

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if kind is None:
            self._log("done")

    def update(self, num: int, **shown: Any) -> None:
        """Count `num` more things and show `shown` beside the count (values replace earlier ones)."""
        self._done += num
        self._shown |= shown
        self._bar.update(num)
        self._bar.set_postfix(self._shown, refresh=False)
        if self._bar.disable and time.monotonic() - self._last_log >= _LOG_INTERVAL_S:
            self._log(f"ETA {self._eta()}")

    def _eta(self) -> str:
        if not self._done:
            return "unknown"
        elapsed = time.monotonic() - self._start
        return tqdm.format_interval(elapsed / self._done * (self.total - self._done))

    def _log(self, end: str) -> None:
        self._last_log = time.monotonic()
        elapsed = max(self._last_log - self._start, 1e-9)
        extra = "".join(f", {value} {name}" for name, value in self._shown.items())
        logger.info(
            "%s: %d/%d %ss, %.2f %ss/s%s, %s",
            self._what,
            self._done,
            self.total,
            self._unit,
            self._done / elapsed,
            self._unit,
            extra,
            end,
        )
