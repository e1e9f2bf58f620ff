"""One file, or a part of one, from a web server."""

from typing import Any

import aiohttp
import fsspec
from fsspec.asyn import sync

from animatediff.data.quarantine import Reason, VideoError
from animatediff.uris import printable_uri

_CHUNK_BYTES = 1 << 20
# Silence ends a request, and so does a trickle that would take for ever.
_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=10, sock_read=60)


def get(fs: fsspec.AbstractFileSystem, url: str, *, max_bytes: int, start: int | None = None) -> bytes:
    """The file at `url`; with `start`, its `max_bytes` bytes from there.

    Raises:
        VideoError: the whole file has more than `max_bytes`, or the server cannot serve a part.
        aiohttp.ClientResponseError: the server refuses; `status` says how.
        OSError, aiohttp.ClientError: no answer, or one that was cut or took too long.
    """
    return bytes(sync(fs.loop, _get, fs, url, max_bytes, start))


async def _get(fs: Any, url: str, max_bytes: int, start: int | None) -> bytes:
    # A compressed answer would not have the length it announces.
    headers = {"Accept-Encoding": "identity"}
    if start is not None:
        headers["Range"] = f"bytes={start}-{start + max_bytes - 1}"
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), headers=headers, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        if start is not None and response.status != 206:
            detail = f"the server of {printable_uri(url)} serves no byte ranges, which parts of files need"
            raise VideoError("fetch", Reason.FETCH_ERROR, detail)
        return await _read(response, url, max_bytes)


async def _read(response: aiohttp.ClientResponse, url: str, max_bytes: int) -> bytes:
    chunks, num_bytes = [], response.content_length or 0
    if num_bytes <= max_bytes:
        num_bytes = 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            chunks.append(chunk)
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                break
    if num_bytes > max_bytes:
        raise too_large(url, num_bytes, max_bytes)
    return b"".join(chunks)


def too_large(uri: str, num_bytes: int, max_bytes: int) -> VideoError:
    """The rejection of a file of `num_bytes` (or more, where reading stopped)."""
    detail = f"{printable_uri(uri)} has {num_bytes} bytes or more, {max_bytes} are allowed"
    return VideoError("fetch", Reason.TOO_LARGE, detail)
