"""Runs the cases of a subject in child processes, and keeps what came of each."""

import contextlib
import json
import os
import random
import resource
import select
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from animatediff.errors import UserError

_STATUS = Path("/proc/self/status")
PATIENCE_S = 10.0
"""Beyond twice its deadline, until a case is said to hang: a machine may be busy."""


@dataclass(frozen=True)
class Subject:
    """A kind of file that is fuzzed."""

    name: str
    run: Callable[[random.Random, Path], str]
    """Makes a case's file in an empty folder and has it read; returns what came of it, in a word."""
    deadline_s: float
    memory_mb: int
    errors: tuple[type[Exception], ...] = (UserError,)
    """The project's own; whatever else is raised is a fault."""
    peak_mb: Callable[[], float] | None = None
    """Of a process that works for the case; default: this one."""


@dataclass
class Report:
    """What came of a subject's cases."""

    subject: str
    cases: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    """Number of the first case of each outcome."""
    slowest: tuple[float, int] = (0.0, -1)
    """Seconds, and the case's number."""
    peak: tuple[float, int] = (0.0, -1)
    """MiB beyond what the process had before, and the case's number."""
    faults: list[tuple[int, str]] = field(default_factory=list)
    """Number, and why: an error of another class, a deadline or a memory that was not kept, a process that died."""

    def __str__(self) -> str:
        outcomes = ", ".join(f"{count} {name} ({self.first[name]})" for name, count in self.outcomes.most_common())
        return (
            f"{self.subject}: {self.cases} cases in {self.seconds:.0f} s; {outcomes}; slowest {self.slowest[0]:.2f} s "
            f"(case {self.slowest[1]}), peak {self.peak[0]:.0f} MiB (case {self.peak[1]}), {len(self.faults)} faults"
        )

    def add(self, subject: Subject, number: int, outcome: str, seconds: float, peak: float) -> None:
        """Take in a case."""
        self.cases += 1
        word = outcome.partition(":")[0]
        self.outcomes[word] += 1
        self.first.setdefault(word, number)
        self.slowest, self.peak = max(self.slowest, (seconds, number)), max(self.peak, (peak, number))
        if outcome.startswith("FAULT"):
            self.faults.append((number, outcome))
        elif seconds > subject.deadline_s:
            self.faults.append((number, f"{word} after {seconds:.1f} s, the deadline is {subject.deadline_s} s"))
        elif peak > subject.memory_mb:
            self.faults.append((number, f"{word} with {peak:.0f} MiB, the bound is {subject.memory_mb} MiB"))


def fuzz(subject: Subject, numbers: Iterable[int], *, seed: int, budget_s: float = float("inf")) -> Report:
    """Run cases one after the other; a child that dies or hangs costs its case and is replaced."""
    report, left, start = Report(subject.name), list(numbers), time.monotonic()
    while left and time.monotonic() - start < budget_s:
        child, pipe = _fork(subject, left, seed)
        left = _watch(subject, child, pipe, left, report, start + budget_s)
    report.seconds = time.monotonic() - start
    return report


def rng_of(subject: Subject, seed: int, number: int) -> random.Random:
    return random.Random(f"{seed}/{subject.name}/{number}")


def _fork(subject: Subject, numbers: list[int], seed: int) -> tuple[int, int]:
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # it does so itself, perhaps later than it is killed
            os.setpgid(child, child)
        os.close(theirs)
        return child, ours
    status = 1
    try:  # never back into the parent's stack
        os.close(ours)
        os.setpgid(0, 0)
        _serve(subject, numbers, seed, theirs)
        status = 0
    finally:
        os._exit(status)


def _serve(subject: Subject, numbers: list[int], seed: int, pipe: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            outcome, seconds, peak = run_case(subject, rng_of(subject, seed, number), Path(folder))
        os.write(pipe, json.dumps([number, outcome[:2000], seconds, peak]).encode() + b"\n")


def run_case(subject: Subject, rng: random.Random, folder: Path) -> tuple[str, float, float]:
    """What came of a case, its seconds and its MiB."""
    with contextlib.suppress(OSError):  # not every kernel lets a process forget its peak
        Path("/proc/self/clear_refs").write_text("5")
    before, start = _mib("VmRSS"), time.monotonic()
    _limit(subject.memory_mb)
    try:
        outcome = subject.run(rng, folder)
    except subject.errors as error:
        outcome = "refused" if "\n" not in str(error) and len(str(error)) <= 8000 else f"FAULT message: {error!r}"
    except BaseException:
        outcome = f"FAULT: {traceback.format_exc()[-1500:]}"
    _limit(None)
    peak = subject.peak_mb() if subject.peak_mb else _mib("VmHWM") - before
    return outcome, time.monotonic() - start, peak


def _limit(memory_mb: int | None) -> None:
    """Let allocations fail far beyond the bound, before they cost the machine: what is mapped counts here, too."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = most if memory_mb is None else int(_mib("VmSize") + 4 * memory_mb) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _mib(name: str) -> float:
    return mib_of(_STATUS, name)


def mib_of(status: Path, name: str) -> float:
    """A process's memory of a kind, by its `/proc` file; 0 where there is none."""
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


def _watch(subject: Subject, child: int, pipe: int, left: list[int], report: Report, end: float) -> list[int]:
    """Read a child's outcomes; returns the cases that it did not come to."""
    left, text = list(left), b""
    patience = 2 * subject.deadline_s + PATIENCE_S
    try:
        while left and time.monotonic() < end:
            ready, _, _ = select.select([pipe], [], [], patience)
            data = os.read(pipe, 65536) if ready else b""
            if not data:
                why = f"FAULT: hung for {patience:.0f} s" if not ready else "FAULT: its process died"
                report.add(subject, left.pop(0), why, patience if not ready else 0.0, 0.0)
                break
            *lines, text = (text + data).split(b"\n")
            for line in lines:
                number, outcome, seconds, peak = json.loads(line)
                report.add(subject, number, outcome, seconds, peak)
                left.remove(number)
        return left
    finally:
        os.close(pipe)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
