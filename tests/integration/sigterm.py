"""SIGTERM to a job at chosen moments of it, as platforms send it, and what it says, leaves and costs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.integration.processes import below

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Moment:
    """When a signal is sent: a random time after something of a job is there."""

    name: str
    has_come: Callable[[dict[int, str], str], bool]
    """Told the job's processes (pid and command line) and its log so far."""
    within_s: float
    """The most that is waited afterwards."""


START = Moment("before Ray", lambda processes, log: True, 2.5)
RAY_STARTS = Moment("Ray starts", lambda processes, log: any("gcs_server" in each for each in processes.values()), 2)
WORKERS_START = Moment("models load", lambda processes, log: "INFO starting " in log, 5)


@dataclass(frozen=True)
class Stop:
    """How a job ended that got a signal; one that ended before has the code 0."""

    moment: str
    after_s: float
    """The signal's time, from the job's start."""
    seconds: float
    """From the signal to the end of the driver."""
    code: int
    """As a shell tells it."""
    line: str
    """The last that the job said."""
    left: list[str]
    """Command lines of the job's processes that were there a few seconds after."""


def stop(job, config_path, log_path, moment, rng, *, whole_pod, deadline_s=600):
    """Start a job, send SIGTERM at a moment, and wait until it has ended.

    Args:
        job: its entry file's name.
        config_path: its config.
        log_path: file that its output goes to.
        moment: when the signal is sent.
        rng: draws the delay.
        whole_pod: send it to all processes that the job has started, as `ray job stop` and a pod's end do; else to
            the driver alone.
    """
    command = [sys.executable, f"pipelines/{job}.py", "--config", config_path]
    began = time.monotonic()
    with log_path.open("w") as log:
        driver = subprocess.Popen(command, cwd=_REPOSITORY, stderr=log, stdout=log, start_new_session=True)
    try:
        while driver.poll() is None and not moment.has_come(below(driver.pid), log_path.read_text()):
            assert time.monotonic() - began < deadline_s, f"{moment.name} did not come"
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(rng.uniform(0, moment.within_s))
        started = below(driver.pid)
        signalled = time.monotonic()
        for pid in started if whole_pod else [driver.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        code = driver.wait(60)
        seconds = time.monotonic() - signalled
        lines = log_path.read_text().splitlines()
        return Stop(
            moment.name,
            signalled - began,
            seconds,
            128 - code if code < 0 else code,
            lines[-1] if lines else "",
            _left(started),
        )
    finally:
        for pid in below(driver.pid) if driver.poll() is None else ():
            os.kill(pid, signal.SIGKILL)


def _left(started):
    """Return the command lines of the processes that outlive their job for more than a few seconds."""
    deadline = time.monotonic() + 5
    while left := [command for pid, command in started.items() if _command(pid) == command]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return left


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None


def table(stops):
    """The rows of a table."""
    return "\n".join(
        f"| {s.moment} | {s.after_s:.1f} | {s.seconds:.1f} | {s.code} | {s.left} | {s.line} |" for s in stops
    )
