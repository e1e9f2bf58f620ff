"""What a lost process says in one line: which it was, why it ended, and where its log lies.

Ray tells the same loss by a dozen exceptions of different families: `OutOfMemoryError` is no `RayActorError`, an error
that a worker raised inherits from the worker's own class, and training wraps all of them.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import exceptions

from animatediff.errors import UserError
from animatediff.storage.full import is_full
from animatediff.uris import printable_text

logger = logging.getLogger(__name__)

_GOES_ON = "the same command continues where this one stopped"
_KILLED = "was killed, as the system does where memory runs out, or crashed"
# What compiled code leaves in its process's log where it crashed; one that was killed leaves nothing.
_CRASH = re.compile(rb"\*\*\* (SIG[A-Z]+) received|Fatal Python error: ([^\n]+)")
_LOG_TAIL = 64_000
# What Ray says of a process whose connection broke, as it finds it out first: from the socket, or by the next call.
_BROKE_OFF = ("connection error code", "unrecoverable failure")
_STREAMING = "ray.data._internal.execution.streaming_executor_state"


# Where errors of Ray, of Ray Train (whose classes for it are no public ones) and of Python keep what they are about.
_WRAPPED = ("cause", "controller_failure", "health_check_failure", "__cause__")


class Loss(NamedTuple):
    """A process or a machine that was lost."""

    text: str
    """What, why and where its log is."""
    may_lack_memory: bool = False


def find_user_error(error: BaseException | None) -> UserError | None:
    """Return the `UserError` that a Ray worker raised, if one is at the bottom of `error`."""
    # Ray raises an error that is of the worker's class as well, whose text is a traceback: its cause is meant.
    return next((e for e in _within(error) if isinstance(e, UserError) and not _is_wrapper(e)), None)


def find_refusal(error: BaseException) -> OSError | None:
    """Return the error of a storage that took no checkpoint, or no list of them, if it is one."""
    found = list(_within(error))
    is_upload = any("_upload_checkpoint" in str(each) for each in found)
    refusals = (each for each in found if isinstance(each, OSError) and not _is_wrapper(each))
    return next((each for each in refusals if is_upload or is_full(each)), None)


def find_loss(error: BaseException | None) -> Loss | None:
    """Return the lost process or machine at the bottom of `error`, if that is what it tells of."""
    return next((loss for each in _within(error) if (loss := _loss(each))), None)


def is_loss(error: exceptions.RayError) -> bool:
    """Whether the process that was asked is gone, rather than has raised something."""
    return not _is_wrapper(error) and _loss(error) is not None


def in_one_line(error: BaseException, *, kept: str = _GOES_ON, lower: str | None = None) -> UserError | None:
    """Return what ended the work, for its user; None if it is neither a worker's own error of that kind nor a loss.

    Args:
        error: what was raised.
        kept: what is not lost.
        lower: the settings that decide how much memory the job takes.
    """
    if mendable := find_user_error(error):
        return mendable
    if loss := find_loss(error):
        hint = f"; where memory is short, lower {lower}" if lower and loss.may_lack_memory else ""
        return UserError(f"{loss.text}; {kept}{hint}")
    return None


@contextmanager
def told_in_one_line(*, kept: str, lower: str) -> Iterator[None]:
    """Raise what ends the work as a `UserError`, if `in_one_line` knows it."""
    try:
        yield
    except Exception as error:
        if mendable := in_one_line(error, kept=kept, lower=lower):
            raise mendable from error
        raise


class Dropped(logging.Filter):
    """The blocks that Ray Data goes on without, told once a reason instead of by a traceback each.

    Use as a context manager around the iteration.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reasons: Counter[str] = Counter()

    def __enter__(self) -> "Dropped":
        logging.getLogger(_STREAMING).addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger(_STREAMING).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Take in Ray Data's record of an error."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        reason = describe_loss(error)
        if not self._reasons[reason]:
            logger.warning("a part of the work is lost: %s", reason)
        self._reasons[reason] += 1
        return False

    @property
    def reason(self) -> str | None:
        """The most frequent ones."""
        return "; or: ".join(reason for reason, _ in self._reasons.most_common(2)) or None


def describe_loss(error: BaseException) -> str:
    """One line on an error that ended a part of the work."""
    if mendable := find_user_error(error):
        return str(mendable)
    if loss := find_loss(error):
        return loss.text
    innermost = list(_within(error))[-1]
    last_line = str(innermost).strip().splitlines()[-1:]
    return f"{type(innermost).__name__}: {_one_line(' '.join(last_line))}; see the workers' logs in {_logs()}"


def retell(data: Mapping[str, Any], **_: Any) -> None:
    """One line in place of the fifty that a raylet sends to the driver for each process that it ends for memory.

    What it sends of others is left out: the work that is lost with them is told of.
    """
    text = "\n".join(data["lines"])
    if "running low on memory" in text:
        logger.warning("%s", _out_of_memory(text).text)


def death_of(worker_id: str) -> str:
    """Why a worker process died, and its log; what is known of it, if Ray does not say.

    Args:
        worker_id: as the process's runtime context gives it.
    """
    found = [row for row in _dead_workers() if row.worker_address.worker_id.hex() == worker_id]
    return _end_of(found[0]) if found else f"{_KILLED}; its log: {_logs()}/worker-{worker_id}-*.err"


def last_death() -> str:
    """Why the last process died that ended without being told to; empty if Ray knows of none."""
    dead = _dead_workers()
    return _end_of(dead[-1]) if dead else ""


def num_ended_for_memory(since_s: float) -> int:
    """How many processes of this job Ray has ended to free memory.

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


def _end_of(dead: Any) -> str:
    from ray.core.generated.common_pb2 import WorkerExitType

    detail = f"{WorkerExitType.Name(dead.exit_type)} {dead.exit_detail}"
    return _ended(detail, dead.pid, dead.worker_address.ip_address)


def _within(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that it wraps, outermost first."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [
                *getattr(each, "worker_failures", {}).values(),
                *(getattr(each, name, None) for name in _WRAPPED),
            ]


def _is_wrapper(error: BaseException) -> bool:
    return isinstance(error, exceptions.RayTaskError)


def _loss(error: BaseException) -> Loss | None:
    if _is_wrapper(error) or not isinstance(error, exceptions.RayError):
        return None
    text = _one_line(str(error))
    if isinstance(error, exceptions.OutOfMemoryError):
        return _out_of_memory(str(error))
    if isinstance(error, exceptions.ActorDiedError):
        return _actor_died(str(error), could_start=not error.actor_init_failed)
    if type(error) is exceptions.RayError and "ActorDiedError isn't serializable" in str(error):
        return _actor_died(str(error), could_start=True)  # Ray cannot send one on, and sends its text
    if isinstance(error, exceptions.WorkerCrashedError):
        return Loss(f"a worker {last_death() or _ended(_BROKE_OFF[0], 0, None)}", True)
    if isinstance(error, exceptions.ObjectStoreFullError):
        return Loss("Ray's object store on a machine is full; see `ray memory`", True)
    if isinstance(error, exceptions.OutOfDiskError):
        return Loss("the disk of a machine, where Ray keeps its session, is full: free some of it")
    for kind, what in _OTHERS.items():
        if isinstance(error, kind):
            return Loss(f"{what} ({text[:300]})")
    return None


# What is left of Ray's families, the special before the general.
_OTHERS: dict[type[exceptions.RayError], str] = {
    exceptions.NodeDiedError: "a machine of the cluster was lost",
    exceptions.LocalRayletDiedError: "Ray's own process on a machine was lost",
    exceptions.ActorUnavailableError: "a process of the job does not answer",
    exceptions.ActorUnschedulableError: "there is no machine for a process of the job",
    exceptions.TaskUnschedulableError: "there is no machine for a process of the job",
    exceptions.RuntimeEnvSetupError: "the workers' environment cannot be set up",
    exceptions.ObjectLostError: "a result was lost together with the process or the machine that held it",
    exceptions.RpcError: "the cluster does not answer",
    exceptions.RaySystemError: "Ray itself failed",
}


def _out_of_memory(text: str) -> Loss:
    """Ray's monitor ended a process so that the machine's memory does not run out."""
    used = _found(r"was (\S+ used / \S+) limit", text)
    where = _found(r"\(IP: ([^,)]+)", text) or "a machine"
    name, pid = _found(r"task name=([^,]+?)\.\w+,", text) or "a worker", _found(r"pid=(\d+)", text)
    process = f"{name} (pid {pid})" if pid else name
    number = int(_found(r"Ray killed (\d+) worker", text) or 1)
    if number > 1:  # the one that was asked is among them, and which it is Ray does not say
        process = f"{number} processes"
    return Loss(
        f"{where} ran out of memory{f' ({used})' if used else ''}, and Ray ended {process} there to free some; "
        f"its log: {_logs()}/raylet.out there",
        True,
    )


def _actor_died(text: str, *, could_start: bool) -> Loss:
    if not could_start:
        reason = text.strip().splitlines()[-1]
        mendable = reason.removeprefix(f"{UserError.__module__}.UserError: ")
        see = "" if mendable != reason else f"; see the workers' logs in {_logs()}"
        return Loss(f"no worker can start: {_one_line(mendable)}{see}")
    name, where = _found(r"class_name: (.+)", text) or "a worker", _found(r"\tip: (\S+)", text)
    pid = int(_found(r"\tpid: (\d+)", text) or 0)
    if "its node has died" in text:
        return Loss(f"{name} was lost with its machine{f' {where}' if where else ''}")
    lacks_memory = "NODE_OUT_OF_MEMORY" in text or any(words in text for words in _BROKE_OFF)
    return Loss(f"{name} {_ended(text, pid, where)}", lacks_memory)


def _ended(detail: str, pid: int, where: str | None) -> str:
    """Why a process ended, by what Ray tells of its exit, and the log of it, which on this machine is looked into."""
    log = f"{_logs()}/worker-*-{pid}.err" if pid else f"{_logs()}/worker-*.err"
    place = f"(pid {pid}{f' on {where}' if where else ''})" if pid else ""
    if "OUT_OF_MEMORY" in detail.upper() or "running low on memory" in detail:
        why, log = "was ended by Ray, as its machine ran out of memory", f"{_logs()}/raylet.out"
    elif crash := _crash_in(log):
        why = f"crashed ({crash})"
    elif any(words in detail for words in _BROKE_OFF):
        why = _KILLED
    else:
        why = f"ended: {_one_line(_found(r'Worker exit detail: (.+)', detail) or detail)[:300]}"
    return " ".join(filter(None, [place, why])) + f"; its log: {log}"


def _crash_in(log: str) -> str | None:
    """Return the signal or the fatal error that a log on this machine ends with."""
    path = Path(log)
    for file in path.parent.glob(path.name):
        found = _CRASH.search(file.read_bytes()[-_LOG_TAIL:])
        if found:
            return (found[1] or found[2]).decode(errors="replace")
    return None


def _logs() -> str:
    node = ray._private.worker._global_node if ray.is_initialized() else None
    return node.get_logs_dir_path() if node else "/tmp/ray/session_latest/logs"


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1].strip() if match else None


def _one_line(text: str) -> str:
    return printable_text(" ".join(re.sub(r"\x1b\[\d+m", "", text).split()))
