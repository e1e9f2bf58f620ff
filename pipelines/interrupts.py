"""SIGTERM, Ctrl-C and a closed terminal end a job as one exception, after which it cleans up; a second one at once."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted; the same command continues where this one stopped"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A signal to a process and to its group arrives twice, as `timeout` and job managers send it.
_SAME_S = 1.0
# Kubernetes kills after 30 s; a clean-up that hangs, as on storage that is away, is not worth more.
_CLEAN_UP_S = 20.0


class Interrupted(KeyboardInterrupt):
    """The process was asked to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class _Handler:
    """What the process does on a signal."""

    def __init__(self) -> None:
        self._first: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            timer = threading.Timer(_CLEAN_UP_S, os._exit, [128 + number])
            timer.daemon = True
            timer.start()
            raise Interrupted(number)
        if now - self._first > _SAME_S:
            os.write(2, f"{INTERRUPTED}\n".encode())
            os._exit(128 + number)  # the kernel ends what a local Ray has started along with its driver


def install() -> None:
    """Take the signals over, except those that are to be ignored (as `nohup` has it)."""
    handler = _Handler()
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@contextmanager
def kept() -> Iterator[None]:
    """Leave the handlers as they were: `ray.init` sets its own, in Python and then in C++, which prints a stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        raise Interrupted(signal.SIGTERM) from None  # Ray's own handler, while it starts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
