"""The parent's side of a child process: start, requests, answers, end. `serving` is the other side."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from animatediff.data.supervision import messages
from animatediff.data.supervision.failures import reproducible_reason
from animatediff.errors import UserError

_START_S = 120.0
_STALL_S = 60
_REAP_S = 10.0
_STDERR_BYTES = 2000
_FIRST = "the header's reading"
"""What a child does until it says otherwise."""
_LIBRARIES = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # bytes; it takes no more
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
}


class ProcessError(Exception):
    """The process died or overran its deadline.

    Args:
        how: what happened to it, for a person.
        hung: whether it was the deadline.
        busy_with: what it was at work with, such as a decoder's name.
        last_line: the last line that it printed.
    """

    def __init__(self, how: str, *, hung: bool, busy_with: str, last_line: str) -> None:
        super().__init__(how)
        self.how, self.hung, self.busy_with, self.last_line = how, hung, busy_with, last_line


class ChildProcess:
    """One child process and the socket to it.

    Args:
        module: what it runs: `serving.serve` with the socket that its only argument numbers.

    Raises:
        UserError: Python cannot be executed.
    """

    def __init__(self, module: str) -> None:
        ours, theirs = socket.socketpair()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # a stopped process neither reads nor writes
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _STALL_S, 0))
        with theirs:
            self._process = _execute(module, theirs.fileno())
        self._connection = Connection(ours.detach())
        self._stderr: Any = self._process.stderr
        self._sources: list[Any] = [self._connection, self._stderr]
        self._stderr_tail = b""
        self._busy_with = _FIRST
        self.num_requests = 0
        self.pid = self._process.pid

    def start(self, *settings: Any) -> None:
        """Hand over what its work depends on, and wait until it is ready.

        Raises:
            ProcessError: it died.
            UserError: something that the settings name cannot be loaded.
        """
        self._send(settings)
        self._receive(time.monotonic() + _START_S)

    def ask(self, *request: Any, timeout_s: float) -> Any:
        """Return its answer to a request.

        Raises:
            ProcessError: the child died or overran the deadline.
            VideoError: its verdict on the video.
        """
        self.num_requests += 1
        self._stderr_tail, self._busy_with = b"", _FIRST
        deadline = time.monotonic() + timeout_s
        self._send(request)
        kind, value = self._receive(deadline)
        while kind == "busy":
            self._busy_with, extra_s = value
            kind, value = self._receive(deadline + extra_s)
        return value

    def kill(self) -> None:
        """End the process and free what belongs to it."""
        self._process.kill()
        self._connection.close()
        self._stderr.close()
        # It may hang in the kernel, as on a dead network drive.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_S)

    def _send(self, value: Any) -> None:
        try:
            messages.send(self._connection, value)
        except BlockingIOError as error:
            raise self._overrun() from error
        except ConnectionError as error:
            raise self._death() from error

    def _receive(self, deadline: float) -> tuple[str, Any]:
        """Return the child's next answer; an `error` is raised."""
        while True:
            ready = wait(self._sources, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._overrun()
            if self._connection in ready:
                break
            self._listen()
        try:
            kind, value = messages.receive(self._connection)
        except BlockingIOError as error:
            raise self._overrun() from error
        except (EOFError, ConnectionError) as error:
            raise self._death() from error
        if kind == "error":
            raise value
        return kind, value

    def _listen(self) -> bool:
        """Keep the end of what the child prints; False when it prints no more."""
        printed = os.read(self._stderr.fileno(), 65536)
        self._stderr_tail = (self._stderr_tail + printed)[-_STDERR_BYTES:]
        if not printed:
            self._sources = [self._connection]
        return bool(printed)

    def _overrun(self) -> ProcessError:
        return ProcessError("was not done in time", hung=True, busy_with=self._busy_with, last_line=self._last_line())

    def _death(self) -> ProcessError:
        try:
            status = self._process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            return ProcessError("closed its socket", hung=False, busy_with=self._busy_with, last_line=self._last_line())
        while len(self._sources) > 1 and self._listen():
            pass
        how = f"died by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return ProcessError(how, hung=-status == signal.SIGALRM, busy_with=self._busy_with, last_line=self._last_line())

    def _last_line(self) -> str:
        lines = self._stderr_tail.decode(errors="replace").strip().splitlines()
        return reproducible_reason(lines[-1]) if lines else ""


def _execute(module: str, fd: int) -> subprocess.Popen[bytes]:
    # Without the current folder on its path (-P): a file there may bear the name of a module that is needed.
    command = [sys.executable, "-P", "-m", module, str(fd)]
    try:
        return subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[fd],
            env=_environment(),
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
    except OSError as error:
        raise UserError(f"the decoding process does not start: {error}") from error


def _environment() -> dict[str, str]:
    """Return the parent's, with its module path as Ray or a notebook has set it, and what the libraries are to do.

    They have one heap and one BLAS thread, as each further one takes some 64 MB of address space, which counts against
    the limit. What is freed stays for the next clip, up to 64 MB, which glibc comes to by itself where an array has 32
    of them: asking the system for an array of a clip's size again takes ten times as long as filling it.
    """
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    return {**os.environ, "PYTHONPATH": path, **_LIBRARIES}
