"""Who holds a lease: a job's process, and whether it is still there."""

import os
import socket
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from animatediff.config import Config


class Holder(Config):
    """Who holds a lease. Nothing of a config or a command line stands here: those may hold passwords."""

    job: str
    host: str
    pid: int
    since: str
    """UTC."""
    token: str
    """Unlike any other's."""
    machine: str | None = None
    """The boot and the process namespace in which the pid means something; None where the system does not tell."""
    started: str | None = None
    """When the process started, by the machine's own count: pids come again."""
    renewals: int = 0
    """Counted in object stores."""

    @classmethod
    def of_this_process(cls, job: str) -> Self:
        """Return a new holder."""
        return cls(
            job=job,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            token=uuid.uuid4().hex,
            machine=_machine(),
            started=_started(os.getpid()),
        )

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Read a lease; None where it is damaged, or not yet written as a whole."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None

    def is_alive(self) -> bool | None:
        """Whether the process is there; None if that cannot be seen from here."""
        if self.machine is None or self.machine != _machine():
            return None
        with suppress(PermissionError):  # another user's
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
        started = _started(self.pid)
        return started == self.started if started else None

    def __str__(self) -> str:
        return f"the {self.job} job (host {self.host}, pid {self.pid}), since {self.since}"


def _machine() -> str | None:
    """Name this boot of this machine, and the container: a pid means something there alone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return None


def _started(pid: int) -> str | None:
    """When a process started, "dead" of one that nobody has waited for yet; None if that is not told."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "dead" if state in "ZX" else fields[18]
