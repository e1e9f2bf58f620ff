"""One file, or a part of one, from a web server: within its bytes and seconds, and from where it may come."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, TypeVar

import aiohttp
import fsspec
import yarl
from aiohttp.abc import ResolveResult
from fsspec.asyn import sync

from animatediff.data.quarantine import Reason, VideoError
from animatediff.uris import printable_uri

_CHUNK_BYTES = 1 << 20
# Silence ends a request, and so does a trickle that would take for ever.
_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=10, sock_read=60)
_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)

_T = TypeVar("_T")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Where clouds tell a machine its credentials, beyond the link-local addresses: Amazon's, Alibaba's, Oracle's, Azure's.
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)


def get(url: str, *, max_bytes: int, start: int | None = None, trusted: bool = False) -> bytes:
    """Return the file at `url`; with `start`, its `max_bytes` bytes from there.

    Args:
        url: what a row names.
        max_bytes: largest file that is read.
        start: byte to begin at.
        trusted: whether it may lie at, or be redirected to, any address, see `SourceConfig.trusted`.

    Raises:
        VideoError: the whole file has more than `max_bytes`, the server cannot serve a part, or it lies, or is
            redirected, where it may not be fetched.
        aiohttp.ClientResponseError: the server refuses; `status` says how.
        OSError, aiohttp.ClientError: no answer, or one that was cut or took too long.
    """
    span = None if start is None else (start, start + max_bytes)

    async def consume(response: aiohttp.ClientResponse) -> bytes:
        return await _content(response, url, max_bytes, is_part=start is not None)

    return request(url, consume, span=span, trusted=trusted)


def request(
    url: str,
    consume: Callable[[aiohttp.ClientResponse], Awaitable[_T]],
    *,
    span: tuple[int, int] | None = None,
    trusted: bool = False,
) -> _T:
    """Ask for the file at `url`, and return what `consume` makes of the answer.

    Args:
        url: what a row names.
        consume: gets the answer that is no redirect, whatever its status.
        span: first byte, and the one behind the last, of the part that is asked for; the server may send all.
        trusted: see `get`.

    Raises:
        VideoError: it lies, or is redirected, where it may not be fetched.
        Exception: what `consume` raises.
        OSError, aiohttp.ClientError: no answer, or one that was cut or took too long.
    """
    guard = _TRUSTED if trusted else _ROWS
    answer: _T = sync(guard.client().loop, _request, guard, url, consume, span)
    return answer


async def _request(
    guard: "_Guard",
    url: str,
    consume: Callable[[aiohttp.ClientResponse], Awaitable[_T]],
    span: tuple[int, int] | None,
) -> _T:
    # A compressed answer would not have the length it announces.
    headers = {"Accept-Encoding": "identity"}
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
    first = place = _url(guard.client().encode_url(url), url)
    async with asyncio.timeout(_TIMEOUT.total):
        for _ in range(_MAX_REDIRECTS + 1):
            is_home = guard is _TRUSTED or place.origin() == first.origin()
            async with await _asked(guard if is_home else _STRANGERS, place, headers) as response:
                if response.status not in _REDIRECTS or "Location" not in response.headers:
                    return await consume(response)
                place = response.url.join(_url(response.headers["Location"], url))
    raise VideoError(
        "fetch", Reason.FETCH_REFUSED, f"{printable_uri(url)} is redirected more than {_MAX_REDIRECTS} times"
    )


def _url(text: str | yarl.URL, source: str) -> yarl.URL:
    try:
        url = yarl.URL(text)
        if url.scheme and (url.scheme not in ("http", "https") or not url.host):
            raise ValueError(f"{url.scheme} is not followed")
    except ValueError as error:
        detail = f"{printable_uri(source)} leads to no web address: {error}"[:300]
        raise VideoError("fetch", Reason.FETCH_REFUSED, detail) from error
    return url


async def _asked(
    guard: "_Guard", place: yarl.URL, headers: dict[str, str]
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    # A resolver is not asked for an address in figures.
    _check(str(place.host), str(place.host), guard.is_allowed)
    session = await guard.client().set_session()
    return session.get(place, headers=headers, timeout=_TIMEOUT, allow_redirects=False)


async def _content(response: aiohttp.ClientResponse, url: str, max_bytes: int, *, is_part: bool) -> bytes:
    check_status(response)
    if is_part and response.status != 206:
        detail = f"the server of {printable_uri(url)} serves no byte ranges, which parts of files need"
        raise VideoError("fetch", Reason.FETCH_ERROR, detail)
    return await _read(response, url, max_bytes)


def check_status(response: aiohttp.ClientResponse) -> None:
    """Let a file pass.

    Raises:
        aiohttp.ClientResponseError: the server sends none.
    """
    response.raise_for_status()
    if response.status >= 300:
        raise aiohttp.ClientResponseError(response.request_info, (), status=response.status, message="is no file")


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
    """Return the rejection of a file of `num_bytes` (or more, where reading stopped)."""
    detail = f"{printable_uri(uri)} has {num_bytes} bytes or more, {max_bytes} are allowed"
    return VideoError("fetch", Reason.TOO_LARGE, detail)


def _check(address: str, host: str, is_allowed: Callable[[_Address], bool]) -> None:
    """Refuse an address in figures; anything else is a name, which is still to be resolved.

    Raises:
        VideoError: it may not be asked.
    """
    try:
        numbers = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return
    if not is_allowed(getattr(numbers, "ipv4_mapped", None) or numbers):
        detail = f"it lies at, or is redirected to, {host}, an address inside the network (source.trusted allows it)"
        raise VideoError("fetch", Reason.FETCH_REFUSED, detail)


class _Resolver(aiohttp.ThreadedResolver):
    """Resolves names, and refuses addresses as it connects, so that a name cannot change in between."""

    def __init__(self, is_allowed: Callable[[_Address], bool]) -> None:
        super().__init__()
        self._is_allowed = is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        for result in found:
            _check(result["host"], host, self._is_allowed)
        return found


def _is_no_metadata(address: _Address) -> bool:
    return not address.is_link_local and address not in _METADATA


def _is_public(address: _Address) -> bool:
    return address.is_global and not address.is_multicast and _is_no_metadata(address)


async def _client_of_all(**settings: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(**settings)


async def _client_of_rows(**settings: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=_Resolver(_is_no_metadata)), **settings)


async def _client_of_strangers(loop: Any = None, **_: Any) -> aiohttp.ClientSession:
    """Without the headers and passwords that are set for all servers."""
    return aiohttp.ClientSession(loop=loop, connector=aiohttp.TCPConnector(resolver=_Resolver(_is_public)))


class _Guard(NamedTuple):
    """Which addresses may be asked, and by what."""

    is_allowed: Callable[[_Address], bool]
    get_client: Callable[..., Any]

    def client(self) -> Any:
        """FSSpec's own, for its loop, its settings and its keeping of sessions: one a process."""
        return fsspec.filesystem("http", get_client=self.get_client)


_TRUSTED = _Guard(lambda address: True, _client_of_all)
_ROWS = _Guard(_is_no_metadata, _client_of_rows)
_STRANGERS = _Guard(_is_public, _client_of_strangers)
