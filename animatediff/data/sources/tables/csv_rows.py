"""The rows of CSV and TSV files, each by itself: a quote that stays open, or a broken line, costs that row alone."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator

from animatediff.data.sources.limits import MAX_LINE_BYTES

# Rows that go over several lines are read ahead, and again line by line where that was an error.
_MAX_REREAD = 256_000_000

Line = str | ValueError
"""A line of the file with its end, or why it cannot be read."""
Row = tuple[int, list[str] | str]
"""Number of the row's last line and its cells; of what is no row, the line and why."""


class _TooFarError(Exception):
    """A row does not end where rows end."""


class CsvRows:
    """Reads the rows of a file.

    Quotes are those of RFC 4180, spaces before a cell do not count, and within one line a quote is taken as it comes:
    `a "b" c` and `"a" b` are cells. What goes over several lines has to be quoted by the letter, because else a quote
    that somebody forgot would swallow the rows that follow it.

    Args:
        lines: of the file.
        delimiter: between cells.
    """

    def __init__(self, lines: Iterable[Line], delimiter: str) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
        self._lines = iter(lines)
        self._again: deque[Line] = deque()
        self._delimiter = delimiter
        self._number = 0
        self._left = _MAX_REREAD

    def __iter__(self) -> Iterator[Row]:
        while (line := self._next()) is not None:
            first = self._number
            cells = f"cannot be read: {line}" if isinstance(line, ValueError) else self._row(line)
            if isinstance(cells, str):
                yield first, cells
            elif cells:
                yield self._number, cells

    def _next(self) -> Line | None:
        line = self._again.popleft() if self._again else next(self._lines, None)
        self._number += line is not None
        return line

    def _row(self, line: str) -> list[str] | str:
        text = line.rstrip("\r\n")
        if '"' not in text and "\r" not in text:
            return [cell.lstrip(" ") for cell in text.split(self._delimiter)] if text else []
        try:
            # A second line is asked for where the first one leaves a quote open.
            reader = csv.reader([line, ""], delimiter=self._delimiter, skipinitialspace=True)
            cells = next(reader, [])
        except csv.Error as error:
            return f"is no row: {error}"
        return cells if reader.line_num == 1 else self._long_row(line)

    def _long_row(self, line: str) -> list[str] | str:
        """Return a row that goes over the lines to come; they are read again if it does not."""
        taken: list[Line] = []
        try:
            return next(csv.reader(self._tape(line, taken), self._dialect()))
        except (csv.Error, _TooFarError) as error:
            self._left -= sum(len(line) for line in taken if isinstance(line, str))
            self._again.extendleft(reversed(taken))
            self._number -= len(taken)
            return f"has a quote that stays open, or is followed by text: {error}"

    def _tape(self, line: str, taken: list[Line]) -> Iterator[str]:
        yield line
        num_chars = len(line)
        while (further := self._next()) is not None:
            taken.append(further)
            num_chars += len(further) if isinstance(further, str) else 0
            if isinstance(further, ValueError):
                raise _TooFarError(f"line {self._number} cannot be read: {further}")
            if num_chars > min(MAX_LINE_BYTES, self._left):
                raise _TooFarError(f"it would have more than {num_chars} characters")
            yield further

    def _dialect(self) -> type[csv.Dialect]:
        class Strict(csv.excel):
            delimiter = self._delimiter
            skipinitialspace = True
            strict = True

        return Strict
