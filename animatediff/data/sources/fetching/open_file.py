"""One video as a file to seek in, from wherever a source says it lies: of an hour-long one, only what is read."""

import io
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO, cast

import aiohttp

from animatediff.data.quarantine import VideoError
from animatediff.data.sources.fetching.attempts import attempt
from animatediff.data.sources.fetching.fetch import fetch, whole
from animatediff.data.sources.fetching.http import check_status, get, request, too_large
from animatediff.data.sources.fetching.local import local_path, open_regular, read_range
from animatediff.data.sources.fetching.reach import is_web, parse_unchained
from animatediff.data.sources.fetching.spellings import open_local
from animatediff.data.sources.fetching.stores import find_stored, stored_file
from animatediff.data.sources.uris import ParquetCell, TarMember

MAX_COPY_BYTES = 8_000_000_000
"""Of a file that a web server serves only whole: it is copied to the local disk for as long as it is open."""
MAX_CELL_BYTES = 2**31
"""Of a video in a Parquet cell, which is in memory as a whole; Arrow's binary columns hold no more."""
_BLOCK_BYTES = 512 << 10
_MOST_AT_ONCE = 8
"""Blocks of one request: one where a file is read here and there, twice as many each time that it is read on."""
_KEPT_BLOCKS = 16
_CHUNK_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 18
_TOTAL_SIZE = re.compile(r"bytes \d+-\d+/(\d+)")


def open_video_file(uri: str, *, trusted: bool = False) -> BinaryIO:
    """Open one video for reading and seeking, to be used as a context manager.

    Of what lies in a store, on a web server or in a tar, half a MiB is read where it is needed, up to 4 MiB at once
    where it is read on, and the last 8 MiB are kept. A video of a Parquet cell is in memory; a web server that serves
    no ranges sends its file once, to a temporary file. What may pass is tried again, piece by piece.

    Args:
        uri: as `read_source` yields it: a file, a member of a tar, or a cell of a Parquet file.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.

    Raises:
        VideoError: stage `fetch`, as `fetch` raises it; reading the file raises it as well.
    """
    part = parse_unchained(uri)
    if isinstance(part, TarMember):
        return _open_member(uri, part, trusted)
    if isinstance(part, ParquetCell):
        return io.BytesIO(fetch(uri, max_bytes=MAX_CELL_BYTES, trusted=trusted))
    if is_web(uri):
        return attempt(uri, lambda: _open_web(uri, trusted))
    path = local_path(uri)
    if path is not None:
        return attempt(uri, lambda: open_local(path))
    file, size = attempt(uri, lambda: find_stored(uri))
    return _buffered(_RangeReader(uri, size, file.read))


def _open_member(uri: str, part: TarMember, trusted: bool) -> BinaryIO:
    path = None if is_web(part.uri) else local_path(part.uri)
    if path is not None:
        tar = attempt(uri, lambda: open_regular(path))
        return _buffered(
            _RangeReader(
                uri,
                part.num_bytes,
                lambda start, end: read_range(tar, part.offset + start, end - start),
                close=tar.close,
            )
        )

    def read(start: int, end: int) -> bytes:
        if is_web(part.uri):
            return get(part.uri, max_bytes=end - start, start=part.offset + start, trusted=trusted)
        return stored_file(part.uri).read(part.offset + start, part.offset + end)

    return _buffered(_RangeReader(uri, part.num_bytes, read))


def _open_web(uri: str, trusted: bool) -> BinaryIO:
    """Return a reader of ranges where the server has them, else the whole file, from the same answer."""

    async def consume(response: aiohttp.ClientResponse) -> BinaryIO:
        if response.status == 416:  # of an empty file there is no first byte
            return io.BytesIO()
        check_status(response)
        total = _TOTAL_SIZE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status != 206 or total is None:
            return await _copy(response, uri)
        size = int(total[1])
        reader = _RangeReader(
            uri, size, lambda start, end: get(uri, max_bytes=end - start, start=start, trusted=trusted)
        )
        reader.keep(0, whole(await response.read(), min(size, _BLOCK_BYTES)))
        return _buffered(reader)

    return request(uri, consume, span=(0, _BLOCK_BYTES), trusted=trusted)


async def _copy(response: aiohttp.ClientResponse, uri: str) -> BinaryIO:
    if (response.content_length or 0) > MAX_COPY_BYTES:
        raise too_large(uri, response.content_length or 0, MAX_COPY_BYTES)
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
    try:
        num_bytes = 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            num_bytes += file.write(chunk)
            if num_bytes > MAX_COPY_BYTES:
                raise too_large(uri, num_bytes, MAX_COPY_BYTES)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


class _RangeReader(io.RawIOBase):
    """A file of which blocks are read when they are needed.

    Args:
        uri: of the file, for errors.
        size: of the file in bytes.
        read: returns the bytes from its first argument up to its second.
        close: called when the file is closed.
    """

    def __init__(
        self, uri: str, size: int, read: Callable[[int, int], bytes], *, close: Callable[[], object] | None = None
    ) -> None:
        self._uri, self._size, self._read, self._close = uri, size, read, close
        self._position = 0
        self._read_on = 1  # the block behind the last ones that were read
        self._at_once = 1
        self._failure: VideoError | None = None
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"there is no byte {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        number, start = divmod(self._position, _BLOCK_BYTES)
        piece = self._block(number)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed and self._close is not None:
            self._close()
        self._blocks.clear()
        super().close()

    def keep(self, number: int, block: bytes) -> None:
        """Keep a block, and forget the one that was not asked for the longest."""
        self._blocks[number] = block
        if len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)

    def _block(self, number: int) -> bytes:
        """Return the block of this number, from 0; empty behind the file's end."""
        if number not in self._blocks and number * _BLOCK_BYTES < self._size:
            self._fetch(number)
        if number in self._blocks:
            self._blocks.move_to_end(number)
        return self._blocks.get(number, b"")

    def _fetch(self, number: int) -> None:
        """Read a block, and some behind it where those before it were read last."""
        self._at_once = min(2 * self._at_once, _MOST_AT_ONCE) if number == self._read_on else 1
        self._read_on = number + self._at_once
        start, end = number * _BLOCK_BYTES, min(self._read_on * _BLOCK_BYTES, self._size)
        if self._failure is not None:  # FFmpeg goes on reading, and drops some errors
            raise self._failure
        try:
            data = attempt(self._uri, lambda: whole(self._read(start, end), end - start))
        except VideoError as error:
            self._failure = error
            raise
        for offset in range(0, end - start, _BLOCK_BYTES):
            self.keep(number + offset // _BLOCK_BYTES, data[offset : offset + _BLOCK_BYTES])


def _buffered(reader: _RangeReader) -> BinaryIO:
    return io.BufferedReader(reader, _BUFFER_BYTES)
