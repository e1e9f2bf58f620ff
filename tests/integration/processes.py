"""Processes of a job that a test started: found by their place below its driver, killed without a warning."""

import contextlib
import os
import signal
from pathlib import Path


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
    """Pids of the driver, of decoding children, of VAE actors, or of any worker of Ray."""
    wanted = {
        "driver": lambda pid, command: pid == driver,
        "decode child": lambda pid, command: "animatediff.data.decoding.child" in command,
        "vae actor": lambda pid, command: command.startswith("ray::") and "Encode" in command,
        "worker": lambda pid, command: command.startswith("ray::"),
    }[kind]
    return [pid for pid, command in processes.items() if wanted(pid, command)]
