"""The child's side: it reads requests from a socket and writes (kind, value) answers, until the other end is closed.

`started` once, and for each request `busy` before each step that may take long, with its name and the seconds that it
adds to the deadline; then `answer`, or `error` with the exception.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.supervision import messages
from animatediff.data.supervision.failures import is_memory_error, reproducible_reason
from animatediff.errors import UserError

# The parent kills at the deadline; this is for where it cannot.
_GRACE_S = 5.0
_STATM = Path("/proc/self/statm")

OnBusy = Callable[[str, float], None]
"""Told what comes next, and the seconds that the deadline lies later than without it, all in all."""


class Limits(Protocol):
    """What one request may take."""

    @property
    def timeout_s(self) -> float:
        """Seconds, to which the child adds what the file's length asks for."""

    @property
    def memory_mb(self) -> int:
        """Megabytes beyond those of an idle child."""


Work = Callable[..., Any]
"""What is done with a request: called with an `OnBusy` and the request's parts, returns the answer."""


def run_child(prepare: Callable[..., Work]) -> None:
    """Serve requests on the socket that the command line numbers, then end this process.

    Args:
        prepare: called with the settings, of which the first are `Limits`, returns what does the work. A `UserError`
            of it ends the parent's start.
    """
    # The parent's thread may block the signal or ignore it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    _serve(Connection(int(sys.argv[1])), prepare)
    # Without the libraries' clean-up, which may hang.
    os._exit(0)


def _serve(connection: Connection, prepare: Callable[..., Work]) -> None:
    try:
        limits, *settings = messages.receive(connection)
        try:
            work = prepare(limits, *settings)
        except UserError as error:
            _send(connection, "error", error)
            return
        _send(connection, "started", None)
        while True:
            _answer(connection, work, limits, messages.receive(connection))
    except (EOFError, ConnectionError):  # the parent is gone
        return


def _send(connection: Connection, kind: str, value: Any) -> None:
    messages.send(connection, (kind, value))


def _answer(connection: Connection, work: Work, limits: Limits, request: tuple[Any, ...]) -> None:
    start = time.monotonic()

    def on_busy(what: str, extra_s: float) -> None:
        _set_alarm(start + limits.timeout_s + extra_s)
        _send(connection, "busy", (what, extra_s))

    _set_alarm(start + limits.timeout_s)
    _limit_memory(limits.memory_mb)
    answer: tuple[str, Any]
    try:
        answer = "answer", work(on_busy, *request)
    except (VideoError, UserError) as error:
        answer = "error", error
    except ConnectionError:
        raise
    except Exception as error:  # whatever a strange file leads to, the next one is served
        reason = Reason.OUT_OF_MEMORY if is_memory_error(error) else Reason.DECODE_ERROR
        answer = "error", VideoError("decode", reason, f"{type(error).__name__}: {reproducible_reason(error)}")
    _limit_memory(None)
    _send(connection, *answer)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _set_alarm(deadline: float) -> None:
    """Let the kernel end this process a little after `deadline`, even while native code holds the interpreter."""
    signal.setitimer(signal.ITIMER_REAL, max(0.0, deadline - time.monotonic()) + _GRACE_S)


def _limit_memory(memory_mb: int | None) -> None:
    """Let allocations fail that take more than `memory_mb` beyond the present size; None lifts the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = most
    if memory_mb is not None and _STATM.exists():
        pages = int(_STATM.read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_mb * 2**20
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
