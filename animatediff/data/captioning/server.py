"""A server over HTTP, asked patiently: what may pass is tried again, within bounds; what cannot is told at once."""

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from animatediff.data.captioning.chat import error_message, is_moderation
from animatediff.data.captioning.config import CaptionConfig
from animatediff.errors import UserError, one_line
from animatediff.uris import joined, printable_uri, with_secrets

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_CONNECT_S = 10
_MOST_BYTES = 16_000_000
_TRANSIENT = frozenset({408, 409, 425, 429})
_NOT_ALLOWED = frozenset({401, 402, 403, 407})
_SECONDS = re.compile(r"\d{1,9}(\.\d*)?")

T = TypeVar("T")


class TryAgainError(Exception):
    """It failed in a way that may pass."""

    def __init__(
        self, detail: str, *, wait_s: float | None = None, is_busy: bool = False, is_dead: bool = False
    ) -> None:
        """Say what failed.

        Args:
            detail: one line.
            wait_s: how long the server asks to wait; None leaves it to us.
            is_busy: nothing is wrong, it is only too early: this is no failure.
            is_dead: if it does not pass, no other request will be answered either.
        """
        super().__init__(detail)
        self.wait_s, self.is_busy, self.is_dead = wait_s, is_busy, is_dead


class GivenUpError(Exception):
    """It was tried as often, or as long, as it may be."""


class RejectedError(Exception):
    """The server does not take this request."""

    def __init__(self, status: int, message: str) -> None:
        """Keep what it says."""
        super().__init__(f"HTTP {status}: {message}")
        self.status, self.message = status, message


class ModeratedError(RejectedError):
    """The server does not take these pictures."""


@dataclass
class Attempts:
    """How often, and since when, one thing has been tried."""

    started: float = field(default_factory=time.monotonic)
    number: int = 0
    failures: int = 0

    @property
    def duration_s(self) -> float:
        """Seconds since the first."""
        return time.monotonic() - self.started


class Server:
    """The server at `captions.url`. Its coroutines all run in one loop."""

    def __init__(self, config: CaptionConfig) -> None:
        """Connect to nothing yet.

        Raises:
            UserError: the key is not set, or the address brings another.
        """
        self._url, self._tries, self._timeout_s = config.url or "", config.tries, config.timeout_s
        self._key_name, self._key = config.api_key_env, _key(config.api_key_env, self._url)
        self._proxy = _proxy(self._url)
        self._was_reached = False
        self._not_before = 0.0
        """By `time.monotonic`, the server's wish."""

    def open(self) -> aiohttp.ClientSession:
        """Return a session, which is to be closed; inside the loop."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=_CONNECT_S),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
        )

    async def patiently(self, ask: Callable[[], Awaitable[T]], attempts: Attempts) -> T:
        """Return what `ask` returns; as long as it raises `TryAgainError` it is called again, later and later.

        Raises:
            GivenUpError: that was often, or long, enough.
            UserError: it was, and the server is not there any more.
        """
        while True:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            attempts.number += 1
            try:
                return await ask()
            except TryAgainError as error:
                await self._wait(error, attempts)

    async def _wait(self, error: TryAgainError, attempts: Attempts) -> None:
        attempts.failures += not error.is_busy
        first_s = _FIRST_WAIT_S * random.uniform(0.5, 1.5)
        # As long as the server asks, but not at once, which would be an endless loop of thousands of requests.
        longer_s = min(_LONGEST_WAIT_S, first_s * 2 ** min(attempts.number - 1, 10))
        wait_s = longer_s if error.wait_s is None else max(first_s, error.wait_s)
        if attempts.failures >= self._tries or attempts.duration_s + wait_s > self._tries * self._timeout_s:
            if error.is_dead:
                raise self.error(f"is not there any more: {error}", "start it again, then rerun") from error
            tries = "tries" if attempts.number > 1 else "try"
            raise GivenUpError(f"{error} ({attempts.number} {tries})") from error
        if error.wait_s is not None:
            self._not_before = max(self._not_before, time.monotonic() + wait_s)
        await asyncio.sleep(wait_s)

    async def get(self, session: aiohttp.ClientSession, *path: str) -> bytes:
        """Return what lies at a path below the address; errors are those of `post`."""
        return await self._request(session, "GET", path, None)

    async def post(self, session: aiohttp.ClientSession, *path: str, body: dict[str, Any]) -> bytes:
        """Send JSON to a path below the address, and return the body of the response.

        Raises:
            TryAgainError: no response, one that was cut, or a status that may pass.
            RejectedError: a status that this request will always get.
            UserError: the server was never there, is none, or does not let us in.
        """
        return await self._request(session, "POST", path, body)

    async def _request(
        self, session: aiohttp.ClientSession, method: str, path: tuple[str, ...], body: dict[str, Any] | None
    ) -> bytes:
        url = with_secrets(joined(self._url, *path))
        try:
            async with session.request(method, url, json=body, allow_redirects=False, proxy=self._proxy) as response:
                content = await _read(response)
        except (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise self.error(f"cannot be asked: {one_line(error)}", "mend the address or the certificate") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if not self._was_reached:
                raise self.error(
                    f"does not answer: {one_line(error)}", "start the server, or mend the address"
                ) from error
            raise TryAgainError(one_line(error), is_dead=True) from error
        except TimeoutError as error:
            raise TryAgainError(f"no answer within {self._timeout_s:g} s (captions.timeout_s)") from error
        except (aiohttp.ClientError, OSError) as error:
            raise TryAgainError(one_line(error)) from error
        self._was_reached = True
        if 300 <= response.status < 400:
            target = printable_uri(response.headers.get("Location", "nowhere"))
            raise self.error(f"redirects to {target}", "name the address that answers itself")
        if response.status != 200:
            raise self.problem(response.status, error_message(content), response.headers.get("Retry-After", ""))
        return content

    def problem(self, status: int, message: str, retry_after: str = "") -> Exception:
        """Return what a response amounts to that is no success.

        Args:
            status: by HTTP, or by the body of a response that claims success.
            message: what the server says.
            retry_after: the header of this name.

        Returns:
            One of the errors of `post`.
        """
        message = message.replace(self._key, "...") if self._key else message  # some repeat it
        if status in _TRANSIENT or status >= 500:
            wait_s = _retry_after(retry_after)
            is_busy = status == 429 or wait_s is not None
            return TryAgainError(f"HTTP {status}: {message}", wait_s=wait_s, is_busy=is_busy)
        if is_moderation(message):
            return ModeratedError(status, message)
        if status in _NOT_ALLOWED and self._key:
            return self.error(f"refuses the key in ${self._key_name} (HTTP {status}: {message})", "give it another")
        if status in _NOT_ALLOWED:
            remedy = "put one into an environment variable, and name that in captions.api_key_env"
            return self.error(f"wants a key (HTTP {status}: {message})", remedy)
        return RejectedError(status, message)

    @property
    def name(self) -> str:
        """What it is called in messages: its address without secrets."""
        return f"captions.url {printable_uri(self._url)}"

    def error(self, problem: str, remedy: str) -> UserError:
        """Return one line that names the server."""
        return UserError(f"{self.name} {problem}: {remedy}")


def _key(name: str | None, url: str) -> str:
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise UserError(f"captions.api_key_env: the environment variable {name} is not set here, or empty")
    if not key.isascii() or not key.isprintable():
        raise UserError(f"captions.api_key_env: {name} holds characters that no key has")
    if "@" in with_secrets(url).partition("://")[2].partition("/")[0]:
        raise UserError("captions.url has a user in it, and captions.api_key_env a key: remove one of them")
    return key


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for an address, as other clients read it.

    Aiohttp's own way would send passwords of ~/.netrc as well, in place of the key.
    """
    parts = urlsplit(with_secrets(url))
    is_direct = proxy_bypass(f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname))
    return None if is_direct else getproxies().get(parts.scheme)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks, num_bytes = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > _MOST_BYTES:
            raise TryAgainError(f"a response of more than {_MOST_BYTES} bytes")
    return b"".join(chunks)


def _retry_after(text: str) -> float | None:
    """Return the seconds that a header asks to wait, which it says as a number or as a date."""
    if _SECONDS.fullmatch(text.strip()):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
