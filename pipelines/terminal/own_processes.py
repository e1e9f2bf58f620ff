"""What this process has started, a Ray of its own above all: signals pass it by, and none of it outlives the job."""

import os
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

# The driver watches these. It ends with exit code 1, in compiled code, as soon as it misses one.
_WATCHED = ("raylet", "gcs_server")


def imported_ray() -> Any:
    """Return Ray; None where it is not, or not wholly, imported."""
    ray = sys.modules.get("ray")
    return ray if ray and hasattr(ray, "is_initialized") else None


@contextmanager
def shielded(signals: Collection[signal.Signals]) -> Iterator[None]:
    """Let signals pass by what is started within this context, by this thread, and by what that starts.

    systemd, Slurm and a closed terminal send them to all of a job's processes. Its driver needs its own Ray to clean
    up, and ends it then. A process inherits which signals are blocked; Ray does so with SIGINT.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # Ray ends its processes with SIGTERM, each of which it would wait a second for in vain.
    for process in _own_ray():
        process.terminate = process.kill


def has_own_ray() -> bool:
    """Whether this process has started a Ray."""
    return bool(_own_ray())


def close_ray() -> None:
    """Leave Ray; one of this process's own ends, workers included, which see only after a while that it has.

    What else this process has started stays, such as a server beside a notebook.
    """
    if (ray := imported_ray()) and ray.is_initialized():
        processes = _with_all_below(_own_ray())
        ray.shutdown()
        _each(processes, "kill")


def end_all() -> None:
    """End what this process has started, and what that has. It must end itself at once afterwards.

    Ray's own way takes seconds, and tens of them on a busy machine.
    """
    if not (ray := imported_ray()):
        return
    stopped: set[Any] = set()
    while found := set(_started()) - stopped:  # one that is stopped starts no more
        _each(found, "suspend")
        stopped |= found
    _each([each for each in stopped if not _is_watched(each)], "kill")
    if has_own_ray():
        ray._private.worker._global_node.destroy_external_storage()  # objects for which memory had no room


def _own_ray() -> list[Any]:
    """Return the processes of the Ray that this one has started, if it has."""
    node = ray._private.worker._global_node if (ray := imported_ray()) else None
    return [each.process for of_kind in (node.all_processes.values() if node else ()) for each in of_kind]


def _with_all_below(processes: list[Any]) -> list[Any]:
    """Return processes and what they have started: of Ray's the agents and workers, and what these have."""
    import psutil

    found: list[Any] = []
    for process in processes:
        with suppress(psutil.Error):  # it has ended
            top = psutil.Process(process.pid)
            found += [top, *top.children(recursive=True)]
    return found


def _is_watched(process: Any) -> bool:
    import psutil

    with suppress(psutil.Error):
        # As Ray has arranged it, Linux ends what the driver has started along with it.
        return sys.platform == "linux" and process.ppid() == os.getpid() and process.name() in _WATCHED
    return False


def _started() -> list[Any]:
    import psutil  # Ray's own

    return psutil.Process().children(recursive=True)


def _each(processes: Collection[Any], what: str) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.Error):  # it has ended
            getattr(process, what)()
