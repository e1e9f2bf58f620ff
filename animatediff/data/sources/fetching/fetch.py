"""The bytes of one video, from wherever a source says it lies."""

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.attempts import ATTEMPTS, attempt
from animatediff.data.sources.fetching.http import get, too_large
from animatediff.data.sources.fetching.local import local_path, open_regular, read_range, size_of
from animatediff.data.sources.fetching.reach import is_web, parse_unchained
from animatediff.data.sources.fetching.spellings import open_local
from animatediff.data.sources.fetching.stores import find_stored, stored_file
from animatediff.data.sources.uris import ParquetCell, TarMember
from animatediff.uris import printable_uri


def fetch(uri: str, *, max_bytes: int, trusted: bool = False, attempts: int = ATTEMPTS) -> bytes:
    """Return the bytes of one video.

    What may pass (server errors, throttling, timeouts, cut connections) is tried again.

    Args:
        uri: as `read_source` yields it: a file, a member of a tar, or a cell of a Parquet file.
        max_bytes: largest video that is read.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.
        attempts: times that it is tried.

    Raises:
        VideoError: stage `fetch`, without secrets in its detail. NOT_FOUND and FETCH_REFUSED (a web server's other
            4xx, a pipe or a device, an address that rows may not name) are this video's fault, and so are TOO_LARGE
            and, for a part of a damaged file, TRUNCATED. FETCH_ERROR is the storage's: unreachable, no credentials, or
            failed each time.
    """
    return attempt(uri, lambda: _read(uri, max_bytes, trusted), attempts)


def _read(uri: str, max_bytes: int, trusted: bool) -> bytes:
    part = parse_unchained(uri)
    if isinstance(part, TarMember):
        return _read_member(part, max_bytes, trusted)
    if isinstance(part, ParquetCell):
        return _read_parquet(part, max_bytes)
    if is_web(uri):
        return get(uri, max_bytes=max_bytes, trusted=trusted)
    path = local_path(uri)
    return _read_remote(uri, max_bytes) if path is None else _read_local(path, uri, max_bytes)


def _read_local(path: str, uri: str, max_bytes: int) -> bytes:
    with open_local(path) as file:
        size = size_of(file)
        if size > max_bytes:
            raise too_large(uri, size, max_bytes)
        return whole(read_range(file, 0, size), size)


def _read_remote(uri: str, max_bytes: int) -> bytes:
    file, size = find_stored(uri)
    if size > max_bytes:
        raise too_large(uri, size, max_bytes)
    # With an end, object stores need no second look at the size.
    return whole(file.read(0, size), size) if size else b""


def _read_member(part: TarMember, max_bytes: int, trusted: bool) -> bytes:
    if part.num_bytes > max_bytes:
        raise too_large(str(part), part.num_bytes, max_bytes)
    if not part.num_bytes:
        return b""
    if is_web(part.uri):
        return whole(get(part.uri, max_bytes=part.num_bytes, start=part.offset, trusted=trusted), part.num_bytes)
    path = local_path(part.uri)
    if path is not None:
        with open_regular(path) as file:
            return whole(read_range(file, part.offset, part.num_bytes), part.num_bytes)
    data = stored_file(part.uri).read(part.offset, part.offset + part.num_bytes)
    return whole(data, part.num_bytes)


def whole(data: bytes, size: int) -> bytes:
    """Return `data`, of which there are `size` bytes.

    Raises:
        EOFError: there are not: the connection was cut.
    """
    if len(data) != size:
        raise EOFError(f"{len(data)} of {size} bytes came")
    return data


def _read_parquet(part: ParquetCell, max_bytes: int) -> bytes:
    # Here, because processes that decode fetch files, and pyarrow takes each 35 MB.
    from animatediff.data.sources.fetching.parquet_cells import read_cell

    data = read_cell(part)
    if data is None:
        raise VideoError("fetch", Reason.NOT_FOUND, f"there is no video, but a null, at {printable_uri(str(part))}")
    if len(data) > max_bytes:
        raise too_large(str(part), len(data), max_bytes)
    return data
