"""SIGTERM, Ctrl-C and a closed terminal end a job as one exception, after which it cleans up; a second one at once."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import ray

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted; the same command continues where this one stopped"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A signal to a process and to its group arrives twice, as `timeout` and job managers send it.
_SAME_S = 1.0
# Kubernetes kills after 30 s; a clean-up that hangs, as on storage that is away, is not worth more.
_CLEAN_UP_S = 20.0


class _Handler:
    """What the process does on a signal."""

    def __init__(self) -> None:
        self._first: float | None = None
        self.exit_code = 128 + signal.SIGINT
        self.is_held = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self.exit_code = now, 128 + number
            timer = threading.Timer(_CLEAN_UP_S, os._exit, [self.exit_code])
            timer.daemon = True
            timer.start()
            if not self.is_held:
                self.end()
        elif now - self._first > _SAME_S:
            os.write(2, f"{INTERRUPTED}\n".encode())
            os._exit(128 + number)  # the kernel ends what a local Ray has started along with its driver

    def end(self) -> None:
        """End what the main thread does, if a signal came."""
        if self._first is not None:
            # No class of its own: Ray raises this one in its place, where it waits in compiled code.
            raise KeyboardInterrupt


_handler = _Handler()


def install() -> None:
    """Take the signals over, except those that are to be ignored (as `nohup` has it)."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handler)


def exit_code() -> int:
    """What a shell would give for the signal that came, or for Ctrl-C."""
    return _handler.exit_code


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait for the end of `ray.init`: processes of a Ray that is half started outlive their driver.

    The handlers stay, too. Ray sets its own: one in Python, and one in C++ that prints a stack.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    of_ray, _handler.is_held = ray._private.utils.set_sigterm_handler, True
    ray._private.utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler, _handler.is_held = of_ray, False
        for number, handler in before.items():
            signal.signal(number, handler)
    _handler.end()
