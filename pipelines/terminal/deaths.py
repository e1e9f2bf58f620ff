"""How a process of Ray's ended, as far as Ray's table of workers and the process's log say."""

import re
from pathlib import Path
from typing import Any

import ray

from animatediff.uris import printable_text

_KILLED = "was killed, as the system does where memory runs out, or crashed"
BROKE_OFF = ("connection error code", "unrecoverable failure")
"""What Ray says of a process whose connection broke, as it finds out first: from the socket, or by the next call."""
# What compiled code leaves in its process's log where it crashed; one that was killed leaves nothing.
_CRASH = re.compile(rb"\*\*\* (SIG[A-Z]+) received|Fatal Python error: ([^\n]+)")
_LOG_TAIL = 64_000


def death_of(worker_id: str) -> str:
    """Return why a worker process died, and where its log lies.

    Args:
        worker_id: as the process's runtime context gives it.
    """
    found = [row for row in _dead_workers() if row.worker_address.worker_id.hex() == worker_id]
    return _end_of_worker(found[0]) if found else f"{_KILLED}; its log: {logs_folder()}/worker-{worker_id}-*.err"


def last_death() -> str:
    """Return why the last process died that ended without being told to; empty if Ray knows of none."""
    dead = _dead_workers()
    return _end_of_worker(dead[-1]) if dead else ""


def num_ended_for_memory(since_s: float) -> int:
    """Count the processes of this job that Ray has ended to free memory.

    Args:
        since_s: seconds of the epoch.
    """
    from ray.core.generated.common_pb2 import NODE_OUT_OF_MEMORY

    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    return sum(
        row.exit_type == NODE_OUT_OF_MEMORY and row.job_id == job and row.end_time_ms >= since_s * 1000
        for row in _dead_workers()
    )


def _dead_workers() -> list[Any]:
    """Return what Ray knows of the processes that ended without being told to, the last one last."""
    from ray._private.state import state
    from ray.core.generated.common_pb2 import NODE_OUT_OF_MEMORY, SYSTEM_ERROR
    from ray.core.generated.gcs_pb2 import WorkerTableData

    try:
        table = [WorkerTableData.FromString(row) for row in state._connect_and_get_accessor().get_worker_table()]
    except Exception:  # the public table needs a dashboard, which a Ray on this machine alone has not
        return []
    dead = [row for row in table if not row.is_alive and row.exit_type in (SYSTEM_ERROR, NODE_OUT_OF_MEMORY)]
    return sorted(dead, key=lambda row: row.end_time_ms)


def _end_of_worker(dead: Any) -> str:
    from ray.core.generated.common_pb2 import WorkerExitType

    detail = f"{WorkerExitType.Name(dead.exit_type)} {dead.exit_detail}"
    return end_of(detail, dead.pid, dead.worker_address.ip_address)


def end_of(detail: str, pid: int, where: str | None) -> str:
    """Return why a process ended, and where its log lies; on this machine the log is read, too.

    Args:
        detail: what Ray tells of its exit.
        pid: 0 if Ray does not say.
        where: address of its machine.
    """
    log = f"{logs_folder()}/worker-*-{pid}.err" if pid else f"{logs_folder()}/worker-*.err"
    place = f"(pid {pid}{f' on {where}' if where else ''})" if pid else ""
    if "OUT_OF_MEMORY" in detail.upper() or "running low on memory" in detail:
        why, log = "was ended by Ray, as its machine ran out of memory", f"{logs_folder()}/raylet.out"
    elif crash := _crash_in(log):
        why = f"crashed ({crash})"
    elif any(words in detail for words in BROKE_OFF):
        why = _KILLED
    else:
        why = f"ended: {plain_line(first_group(r'Worker exit detail: (.+)', detail) or detail)[:300]}"
    return " ".join(filter(None, [place, why])) + f"; its log: {log}"


def _crash_in(log: str) -> str | None:
    """Return the signal or the fatal error that a log on this machine ends with."""
    path = Path(log)
    for file in path.parent.glob(path.name):
        found = _CRASH.search(file.read_bytes()[-_LOG_TAIL:])
        if found:
            return (found[1] or found[2]).decode(errors="replace")
    return None


def logs_folder() -> str:
    """Return the folder of Ray's logs on this machine."""
    node = ray._private.worker._global_node if ray.is_initialized() else None
    return node.get_logs_dir_path() if node else "/tmp/ray/session_latest/logs"


def first_group(pattern: str, text: str) -> str | None:
    """Return what the pattern's first group matches in a text, without spaces around it; None if nothing does."""
    match = re.search(pattern, text)
    return match[1].strip() if match else None


def plain_line(text: str) -> str:
    """Return a text without colours, line breaks and secrets."""
    return printable_text(" ".join(re.sub(r"\x1b\[\d+m", "", text).split()))
