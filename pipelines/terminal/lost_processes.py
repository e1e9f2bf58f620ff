"""What a lost process says in one line: which it was, why it ended, and where its log lies.

Ray tells the same thing by a dozen exceptions of different families: `OutOfMemoryError` is no `RayActorError`, an error
that a worker raised inherits from the worker's own class, and training wraps all of them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ray import exceptions

from animatediff.errors import UserError
from pipelines.terminal.deaths import BROKE_OFF, end_of, first_group, last_death, logs_folder, plain_line

# Where errors of Ray, of Ray Train (whose classes for it are no public ones) and of Python keep what they are about.
_WRAPPED = ("cause", "controller_failure", "health_check_failure", "__cause__")


class LostProcess(NamedTuple):
    """A process or a machine that was lost."""

    text: str
    """What, why and where its log is."""
    may_lack_memory: bool = False


def find_lost_process(error: BaseException | None) -> LostProcess | None:
    """Return the lost process or machine at the bottom of `error`, if that is what it tells of."""
    return next((lost for each in with_causes(error) if (lost := _lost_process(each))), None)


def is_lost_process(error: exceptions.RayError) -> bool:
    """Whether the process that was asked is gone, rather than has raised something."""
    return not is_wrapper(error) and _lost_process(error) is not None


def with_causes(error: BaseException | None) -> Iterator[BaseException]:
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


def is_wrapper(error: BaseException) -> bool:
    """Whether it only carries what a task or an actor raised; such an error is of the worker's class as well."""
    return isinstance(error, exceptions.RayTaskError)


def _lost_process(error: BaseException) -> LostProcess | None:
    if is_wrapper(error) or not isinstance(error, exceptions.RayError):
        return None
    text = plain_line(str(error))
    if isinstance(error, exceptions.OutOfMemoryError):
        return out_of_memory(str(error))
    if isinstance(error, exceptions.ActorDiedError):
        return _actor_died(str(error), could_start=not error.actor_init_failed)
    if type(error) is exceptions.RayError and "ActorDiedError isn't serializable" in str(error):
        return _actor_died(str(error), could_start=True)  # Ray cannot send one on, and sends its text
    if isinstance(error, exceptions.WorkerCrashedError):
        return LostProcess(f"a worker {last_death() or end_of(BROKE_OFF[0], 0, None)}", True)
    if isinstance(error, exceptions.ObjectStoreFullError):
        return LostProcess("Ray's object store on a machine is full; see `ray memory`", True)
    if isinstance(error, exceptions.OutOfDiskError):
        return LostProcess("the disk of a machine, where Ray keeps its session, is full: free some of it")
    for kind, what in _OTHERS.items():
        if isinstance(error, kind):
            return LostProcess(f"{what} ({text[:300]})")
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


def out_of_memory(text: str) -> LostProcess:
    """Return the process that, as Ray's memory monitor tells, was ended so that the machine keeps some."""
    used = first_group(r"was (\S+ used / \S+) limit", text)
    where = first_group(r"\(IP: ([^,)]+)", text) or "a machine"
    name, pid = first_group(r"task name=([^,]+?)\.\w+,", text) or "a worker", first_group(r"pid=(\d+)", text)
    process = f"{name} (pid {pid})" if pid else name
    number = int(first_group(r"Ray killed (\d+) worker", text) or 1)
    if number > 1:  # the one that was asked is among them, and which it is Ray does not say
        process = f"{number} processes"
    return LostProcess(
        f"{where} ran out of memory{f' ({used})' if used else ''}, and Ray ended {process} there to free some; "
        f"its log: {logs_folder()}/raylet.out there",
        True,
    )


def _actor_died(text: str, *, could_start: bool) -> LostProcess:
    if not could_start:
        reason = text.strip().splitlines()[-1]
        mendable = reason.removeprefix(f"{UserError.__module__}.UserError: ")
        see = "" if mendable != reason else f"; see the workers' logs in {logs_folder()}"
        return LostProcess(f"no worker can start: {plain_line(mendable)}{see}")
    name, where = first_group(r"class_name: (.+)", text) or "a worker", first_group(r"\tip: (\S+)", text)
    pid = int(first_group(r"\tpid: (\d+)", text) or 0)
    if "its node has died" in text:
        return LostProcess(f"{name} was lost with its machine{f' {where}' if where else ''}")
    lacks_memory = "NODE_OUT_OF_MEMORY" in text or any(words in text for words in BROKE_OFF)
    return LostProcess(f"{name} {end_of(text, pid, where)}", lacks_memory)
