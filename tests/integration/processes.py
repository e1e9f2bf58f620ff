"""Processes of a job that a test started: found by their place below its driver, killed without a warning."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]


def below(pid):
    """{pid: command line} of all processes that `pid` started, directly or not, itself included."""
    parents, commands = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            child = int(stat.parent.name)
            parents[child] = int(stat.read_text().rpartition(")")[2].split()[1])
            commands[child] = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: commands[child] for child in found if child in commands}


def kill(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def of_kind(processes, kind, driver):
    """Pids of the driver, of decoding children, of actors of one of Ray's jobs, or of any worker of Ray."""
    wanted = {
        "driver": lambda pid, command: pid == driver,
        "decode child": lambda pid, command: "animatediff.data.decoding.child" in command,
        "scan child": lambda pid, command: "animatediff.data.shots.child" in command,
        "copy child": lambda pid, command: "animatediff.data.shots.copies.child" in command,
        "caption actor": lambda pid, command: command.startswith("ray::") and "Caption" in command,
        "vae actor": lambda pid, command: command.startswith("ray::") and "Encode" in command,
        "render actor": lambda pid, command: command.startswith("ray::") and "RenderSlices" in command,
        "training worker": lambda pid, command: command.startswith("ray::") and "TrainWorker" in command,
        "dispatcher": lambda pid, command: command.startswith("ray::Dispatcher"),
        "worker": lambda pid, command: command.startswith("ray::"),
    }[kind]
    return [pid for pid, command in processes.items() if wanted(pid, command)]


class Job:
    """A job's command with a config file, again and again until it is done; as a context, nothing of it outlives it."""

    def __init__(self, name, config_path, log):
        self._command = [sys.executable, f"pipelines/{name}.py", "--config", config_path]
        self._log = log
        self.runs = 0
        self._driver = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Of a driver that has ended nothing is left to kill, and its number may be another process's by now.
        if self._driver is not None and self.is_running():
            self.end()

    def start(self):
        self.runs += 1
        self._driver = subprocess.Popen(self._command, cwd=_REPOSITORY, stderr=self._log, stdout=self._log)

    def is_running(self):
        return self._driver.poll() is None

    def of_kind(self, kind):
        return of_kind(below(self._driver.pid), kind, self._driver.pid)

    def kill_one(self, kind):
        """Kill one process of a kind; a driver takes what it started with it. True if there was one."""
        chosen = self.of_kind(kind)[:1]
        kill([*below(self._driver.pid)] if kind == "driver" else chosen)
        return bool(chosen)

    def end(self):
        kill(below(self._driver.pid))
        self._driver.wait()

    def code(self):
        return self._driver.wait(900)  # sixty items beside other work have taken more than five minutes
