"""A child process that is started when it is needed, and replaced when it fails."""

from types import TracebackType
from typing import Any, Protocol, Self

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.supervision.failures import is_memory_error
from animatediff.data.supervision.process import ChildProcess, ProcessError
from animatediff.data.supervision.serving import Limits
from animatediff.errors import UserError

ATTEMPTS = 3
"""How often a video is tried whose process dies, since that may come from outside."""
HANG_ATTEMPTS = 2
"""Times that a video is tried which takes longer than its deadline."""


class ChildLimits(Limits, Protocol):
    """What one request may take, and one child."""

    @property
    def files_per_child(self) -> int:
        """Requests before a fresh process takes over, because decoders leak."""


class Supervisor:
    """Has work on videos done in a child process.

    It is used from one thread, and is a context manager that ends the process.

    Args:
        module: what the process runs.
        limits: of one request.
        settings: what it is to know besides.
    """

    def __init__(self, module: str, limits: ChildLimits, *settings: Any) -> None:
        self._module, self._limits, self._settings = module, limits, settings
        self._child: ChildProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def child_pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child:
            self._child.kill()
            self._child = None

    def _ask(self, *request: Any) -> Any:
        """Return the child's answer.

        Raises:
            VideoError: the video cannot be used. If the process died or hung, that has happened `ATTEMPTS` or
                `HANG_ATTEMPTS` times.
            UserError: the process cannot be started.
        """
        failures: list[ProcessError] = []
        while len(failures) < ATTEMPTS and _num_hangs(failures) < HANG_ATTEMPTS:
            try:
                return self._ask_once(*request)
            except ProcessError as failure:
                failures.append(failure)
        raise _final_error(failures, self._limits) from failures[-1]

    def _ask_once(self, *request: Any) -> Any:
        """Return the child's answer; end the child unless it is ready for the next request.

        Raises:
            ProcessError: the child died or hung.
        """
        try:
            return self._ready_child().ask(*request, timeout_s=self._limits.timeout_s)
        except BaseException as error:
            # A child that has raised a `VideoError` is idle again. Otherwise an answer may still come, to the wrong
            # question, and what a lack of memory leaves behind would narrow the next attempt.
            if not isinstance(error, VideoError) or error.reason is Reason.OUT_OF_MEMORY:
                self.close()
            raise

    def _ready_child(self) -> ChildProcess:
        if self._child and self._child.num_requests >= self._limits.files_per_child:
            self.close()
        if not self._child:
            self._child = self._start()
        return self._child

    def _start(self) -> ChildProcess:
        """Return a process that is ready.

        Raises:
            UserError: it cannot.
        """
        for attempt in range(1, ATTEMPTS + 1):
            child = ChildProcess(self._module)
            try:
                child.start(self._limits, *self._settings)
                return child
            except ProcessError as error:
                child.kill()
                if attempt == ATTEMPTS:
                    raise UserError(
                        f"the decoding process does not start: it {error.how} {error.last_line}".strip()
                    ) from error
            except BaseException:
                child.kill()
                raise
        raise AssertionError("the loop returns or raises")


def _num_hangs(failures: list[ProcessError]) -> int:
    return sum(failure.hung for failure in failures)


def _final_error(failures: list[ProcessError], limits: Limits) -> VideoError:
    """Return why a video is not tried again whose decoding process has died or hung each time."""
    last = failures[-1]
    if _num_hangs(failures) == HANG_ATTEMPTS:
        limit = f"{limits.timeout_s:g} s and twice the video's length"
        detail = f"{last.busy_with} was not done after {limit}, {HANG_ATTEMPTS} times"
        return VideoError("decode", Reason.DECODER_HANG, detail)
    reason = Reason.OUT_OF_MEMORY if is_memory_error(last.last_line) else Reason.DECODER_CRASH
    last_line = f": {last.last_line}" if last.last_line else ""
    return VideoError("decode", reason, f"{last.busy_with} {last.how}, {ATTEMPTS} times{last_line}")
