"""SIGTERM, Ctrl-C and a closed terminal end a job as one exception, after which it cleans up; a second one at once.

So does a thread that finds out that the main one waits in vain.
"""

import atexit
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from animatediff.errors import UserError
from animatediff.uris import printable_text
from pipelines.terminal import own_processes

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A signal to a process and to its group arrives twice, as `timeout` and job managers send it.
_SAME_S = 1.0
# Kubernetes kills after 30 s; a clean-up that hangs, as on storage that is away, is not worth more.
_CLEAN_UP_S = 20.0
# Nothing is lost where Ray is still starting, which takes it half a minute on a busy machine.
_START_S = 1.5
_GIVE_UP = signal.SIGUSR1


class _Handler:
    """What the process does on a signal."""

    def __init__(self) -> None:
        self._first: float | None = None
        self.exit_code = 128 + signal.SIGINT
        self.ray_starts = False
        """Whether Ray is being started or joined, or was when a signal came: then it cannot be shut down."""
        self.code_of_ended_job: int | None = None
        """Its exit code once it has ended, and its process only closes what it has opened, which takes Ray a second."""
        self.kept = "nothing was written"
        self.stderr = 2
        """Standard error, also while file descriptor 2 leads nowhere, as it does while Ray starts."""
        self._is_told = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            if self.code_of_ended_job is not None:
                return
            self.exit_code = 128 + number
            if _only_imports(frame):
                self.end_at_once(self.exit_code)
            self.end()
        elif now - self._first > _SAME_S:
            self.end_at_once(128 + number)

    def prepare(self) -> None:
        """Get what a signal needs, once.

        A thread learns of it at once, while this one may come to it only after a second: Ray waits in compiled code.
        """
        if self.stderr != 2:
            return
        self.stderr = os.dup(2)
        numbers, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        threading.Thread(target=self._end_in_time, args=(numbers,), daemon=True, name="signals").start()

    def _end_in_time(self, numbers: int) -> None:
        """End where the clean-up hangs, or Ray does while it starts.

        Args:
            numbers: file descriptor that the numbers of signals are read from, as they come.
        """
        while (number := os.read(numbers, 1)[0]) not in _SIGNALS:
            pass
        self.exit_code = 128 + number if self.code_of_ended_job is None else self.code_of_ended_job
        time.sleep(_START_S)
        if not self.ray_starts or self._first is not None:
            time.sleep(_CLEAN_UP_S - _START_S)
        self.end_at_once(self.exit_code)

    def tell(self, write: Callable[[str], object]) -> None:
        """Write the line that the job ends with: which signal it was, what is kept, and what to type."""
        if not self._is_told:
            self._is_told = True
            name = signal.Signals(self.exit_code - 128).name
            command = printable_text(shlex.join(["python", *sys.argv]))
            write(f"stopped by {name}; {self.kept}; to go on, run the same command again: {command}")

    def end_at_once(self, exit_code: int) -> None:
        """End the process, and what it has started, without waiting for anything."""
        if self.code_of_ended_job is not None:
            sys.stdout.flush()
        else:
            self.tell(lambda line: os.write(self.stderr, f"{line}\n".encode()))
        try:
            own_processes.end_all()
        finally:
            os._exit(exit_code)

    @property
    def is_quiet(self) -> bool:
        """Whether no signal came."""
        return self._first is None

    def end(self) -> None:
        """End what the main thread does, if a signal came."""
        if self._first is not None:
            # No class of its own: Ray raises this one in its place, where it waits in compiled code.
            raise KeyboardInterrupt


def _only_imports(frame: FrameType | None) -> bool:
    """Whether modules are being imported for a job that has not begun: some take an exception there for a fault."""
    if (ray := own_processes.imported_ray()) and ray.is_initialized():
        return False
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


_handler = _Handler()


def say_on_interrupt(what: str) -> None:
    """Say what a signal from now on leaves as it is, for the line that the job ends with."""
    _handler.kept = what


def signal_came() -> bool:
    """Whether a signal came that ends the job."""
    return not _handler.is_quiet


def wait_for_own() -> None:
    """Wait a moment for a signal that the job's processes may have got just before, and raise it here."""
    if _handler.is_quiet:
        time.sleep(_SAME_S)


def install() -> None:
    """Take the signals over, except those that are to be ignored (as `nohup` has it)."""
    _handler.prepare()
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handler)


def _ignore_signals_of_ended_job() -> None:
    """Let a job that has ended end as it did: Python gives signals back before it takes its modules apart."""
    if _handler.code_of_ended_job is not None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


# Before anything else is, so that it is done after all else, which a second signal breaks off.
atexit.register(_ignore_signals_of_ended_job)


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Take the signals over, and end the process with one line and the signal's exit code where one comes."""
    install()
    _handler.code_of_ended_job = None
    code = 1
    try:
        yield
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    except BaseException as error:
        # What a signal breaks off fails in many ways, above all where the job's other processes got it, too.
        if not isinstance(error, KeyboardInterrupt) and _handler.is_quiet:
            raise
        _handler.tell(logger.error)
        if _handler.ray_starts or own_processes.has_own_ray():
            sys.stdout.flush()
            _handler.end_at_once(_handler.exit_code)
        # Objects of Ray that were interrupted while they were made complain as they are deleted.
        sys.unraisablehook = lambda _: None
        code = _handler.exit_code
        sys.exit(code)
    finally:
        _handler.code_of_ended_job = code
        own_processes.close_ray()


@contextmanager
def starting_ray() -> Iterator[None]:
    """Let `ray.init` within this context keep the handlers, and signals pass by the processes that it starts.

    Ray sets handlers of its own: one in Python, and one in C++ that prints a stack. A signal ends the start with the
    job, and what of Ray is there by then ends with its driver.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    import ray  # the signals are taken over before Ray is imported, which takes seconds

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    of_ray, _handler.ray_starts = ray._private.utils.set_sigterm_handler, True
    ray._private.utils.set_sigterm_handler = lambda _: None
    try:
        with own_processes.shielded(_SIGNALS):
            yield
    finally:
        ray._private.utils.set_sigterm_handler = of_ray
        for number, handler in before.items():
            signal.signal(number, handler)
        _handler.ray_starts = not _handler.is_quiet
    # What leaves it to Python's end to leave Ray, as a notebook does, leaves its agents for a minute otherwise.
    atexit.register(own_processes.close_ray)
    _handler.end()


@contextmanager
def stoppable() -> Iterator[Callable[[UserError], None]]:
    """Let another thread end what is done within this context.

    Yields:
        What to call there with the reason, which is raised here; in a main thread only, as Python has it, and
        without effect when the context has ended.
    """
    reasons: list[UserError] = []
    has_ended = False

    def end(number: int, frame: FrameType | None) -> None:
        if not has_ended:
            raise KeyboardInterrupt  # which Ray lets through where it waits

    if threading.current_thread() is not threading.main_thread():
        yield reasons.append
        return
    main_thread, before = threading.get_ident(), signal.signal(_GIVE_UP, end)

    def stop(reason: UserError) -> None:
        reasons.append(reason)
        if not has_ended:
            signal.pthread_kill(main_thread, _GIVE_UP)

    try:
        yield stop
    except KeyboardInterrupt:
        if reasons and _handler.is_quiet:
            raise reasons[0] from None
        raise
    finally:
        has_ended = True
        # One that is on its way must find a handler: by default it would end the process.
        signal.signal(_GIVE_UP, (lambda *_: None) if before == signal.SIG_DFL else before)
