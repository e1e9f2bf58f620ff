"""Videos in the cells of a Parquet file, read one after the other."""

import threading
from collections import deque
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from animatediff import storage
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.local import local_path, open_regular
from animatediff.data.sources.uris import ParquetCell, describe
from animatediff.uris import printable_uri

_BUFFER_BYTES = 1 << 20
_KEPT_ROWS = 16
"""Threads that fetch ahead may ask for neighbours in another order."""
_KEPT_BYTES = 256_000_000


class _Cursor:
    """One column of one row group, read forwards: neighbours come from the same pass, in little memory."""

    def __init__(self, cell: ParquetCell) -> None:
        self.key = self.key_of(cell)
        path = local_path(cell.uri)
        if path is not None:
            self._file: Any = open_regular(path)
        else:
            fs, remote = storage.filesystem(cell.uri, may_wait=False)
            self._file = fs.open(remote, "rb")
        try:
            parquet = pq.ParquetFile(self._file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            if cell.group >= parquet.num_row_groups:
                raise IndexError(cell.group)
        except BaseException:
            self.close()
            raise
        # One at a time: a dictionary can make many rows of one long value.
        self._batches = parquet.iter_batches(1, row_groups=[cell.group], columns=[cell.column], use_threads=False)
        self._read: deque[tuple[int, pa.Array]] = deque(maxlen=_KEPT_ROWS)

    @staticmethod
    def key_of(cell: ParquetCell) -> tuple[str, int, str]:
        """Return what the cells have in common that one cursor reads."""
        return cell.uri, cell.group, cell.column

    @property
    def start(self) -> int:
        """The first row that can still be given."""
        return self._read[0][0] if self._read else 0

    def value(self, row: int) -> bytes | None:
        """Return the value of a row that is not before `start`."""
        while row >= (end := self._end()):
            batch = next(self._batches, None)
            if batch is None:
                raise IndexError(row)
            self._read.append((end, _leaf(batch.column(0))))
            while len(self._read) > 1 and sum(values.nbytes for _, values in self._read) > _KEPT_BYTES:
                self._read.popleft()
        value: bytes | None = next(
            values[row - first].as_py() for first, values in reversed(self._read) if row >= first
        )
        return value

    def _end(self) -> int:
        return self._read[-1][0] + len(self._read[-1][1]) if self._read else 0

    def close(self) -> None:
        self._file.close()


def _leaf(values: pa.Array) -> pa.Array:
    """Return the values of a struct's only field, or of no struct."""
    return _leaf(values.flatten()[0]) if pa.types.is_struct(values.type) else values


_cursor: _Cursor | None = None
_lock = threading.Lock()


def read_cell(cell: ParquetCell) -> bytes | None:
    """Return the video in a cell; None for a null.

    The process keeps its place in the row group, so that the next row costs no second reading of those before it.

    Raises:
        VideoError: NOT_FOUND, where the file has no such row (it was replaced since it was planned), and TRUNCATED,
            where it is damaged.
        Exception: whatever the storage raises.
    """
    global _cursor  # noqa: PLW0603
    with _lock:
        try:
            if _cursor is None or _cursor.key != _Cursor.key_of(cell) or cell.row < _cursor.start:
                _forget()
                _cursor = _Cursor(cell)
            return _cursor.value(cell.row)
        except Exception as error:
            _forget()  # its place is lost
            if isinstance(error, IndexError):
                detail = f"there is no row at {printable_uri(str(cell))}"
                raise VideoError("fetch", Reason.NOT_FOUND, detail) from error
            if isinstance(error, pa.ArrowInvalid):
                detail = f"{printable_uri(cell.uri)} is damaged: {describe(error)}"
                raise VideoError("fetch", Reason.TRUNCATED, detail) from error
            raise


def _forget() -> None:
    global _cursor  # noqa: PLW0603
    if _cursor is not None:
        _cursor.close()
    _cursor = None
