"""What ends a job, for its user: an error that they can mend, a lost process or a refusing storage, in one line."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.exceptions import UserCodeException

from animatediff.errors import UserError
from animatediff.storage.full import is_full
from pipelines.terminal.deaths import logs_folder, plain_line
from pipelines.terminal.lost_processes import find_lost_process, is_wrapper, out_of_memory, with_causes

logger = logging.getLogger(__name__)

_GOES_ON = "the same command continues where this one stopped"
_NO_WAY = re.compile(r"connectFullMesh failed|socketStartConnect|socketPollConnect")
_WAYS = (
    "the name of each node's own machine must resolve to an address that the others reach, which 127.0.0.1 is not, and "
    "the network must let them through; else name the interface on every node, in GLOO_SOCKET_IFNAME or "
    "NCCL_SOCKET_IFNAME"
)
# The last line of a traceback, but for those of Ray's wrappers.
_RAISED = re.compile(r"(?!ray\.exceptions\.)[\w.]+(?:Error|Exception|Exit|Interrupt)(?::|$)")
_STREAMING = "ray.data._internal.execution.streaming_executor_state"


def find_user_error(error: BaseException | None) -> UserError | None:
    """Return the `UserError` that a Ray worker raised, if one is at the bottom of `error`."""
    # Ray raises an error that is of the worker's class as well, whose text is a traceback: its cause is meant.
    return next((e for e in with_causes(error) if isinstance(e, UserError) and not is_wrapper(e)), None)


def find_storage_error(error: BaseException) -> OSError | None:
    """Return the storage's error: any `OSError` of a checkpoint's upload, elsewhere one that says there is no room."""
    found = list(with_causes(error))
    is_upload = any("_upload_checkpoint" in str(each) for each in found)
    os_errors = (each for each in found if isinstance(each, OSError) and not is_wrapper(each))
    return next((each for each in os_errors if is_upload or is_full(each)), None)


def in_one_line(
    error: BaseException, *, what_is_kept: str = _GOES_ON, memory_fields: str | None = None
) -> UserError | None:
    """Return what ended the work, for its user; None if it is neither a worker's `UserError` nor a lost process.

    Args:
        error: what was raised.
        what_is_kept: what is not lost.
        memory_fields: the settings that decide how much memory the job takes.
    """
    if mendable := find_user_error(error):
        return mendable
    if lost := find_lost_process(error):
        hint = f"; where memory is short, lower {memory_fields}" if memory_fields and lost.may_lack_memory else ""
        return UserError(f"{lost.text}; {what_is_kept}{hint}")
    if said := _find_no_way(error):
        return UserError(f"{said}; {_WAYS}; {what_is_kept}")
    return None


def _find_no_way(error: BaseException) -> str | None:
    """Return in one line that workers do not reach one another, as Gloo and NCCL say it; None if it is not that."""
    for each in with_causes(error):
        found = [line.strip() for line in str(each).splitlines() if _NO_WAY.search(line)]
        if found:
            return f"the training workers do not reach one another over the network ({plain_line(found[-1])})"
    return None


@contextmanager
def as_user_errors(*, what_is_kept: str, memory_fields: str) -> Iterator[None]:
    """Raise what ends the block as a `UserError`, if `in_one_line` can say it."""
    try:
        yield
    except Exception as error:
        if mendable := in_one_line(error, what_is_kept=what_is_kept, memory_fields=memory_fields):
            raise mendable from error
        raise


class DroppedBlockReasons(logging.Filter):
    """Keeps why Ray Data goes on without blocks: a log filter that takes its tracebacks, and logs each reason once.

    Use as a context manager around the iteration.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reasons: Counter[str] = Counter()

    def __enter__(self) -> "DroppedBlockReasons":
        logging.getLogger(_STREAMING).addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger(_STREAMING).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Take in Ray Data's record of an error."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        reason = describe_failure(error)
        if not self._reasons[reason]:
            logger.warning("a part of the work is lost: %s", reason)
        self._reasons[reason] += 1
        return False

    @property
    def reason(self) -> str | None:
        """The two most frequent reasons; None where nothing was dropped."""
        return "; or: ".join(reason for reason, _ in self._reasons.most_common(2)) or None


def describe_failure(error: BaseException) -> str:
    """Return one line on an error that ended a part of the work."""
    if mendable := find_user_error(error):
        return str(mendable)
    if lost := find_lost_process(error):
        return lost.text
    innermost = list(with_causes(error))[-1]
    last_line = str(innermost).strip().splitlines()[-1:]
    said = f"{type(innermost).__name__}: {plain_line(' '.join(last_line))}"
    if isinstance(innermost, UserCodeException):
        # Its own text is advice on retries; what a worker's code raised stands in the traceback that came with it.
        raised = [line for line in str(error).splitlines() if _RAISED.match(line)]
        said = plain_line(raised[-1]) if raised else said
    return f"{said}; see the workers' logs in {logs_folder()}"


def log_raylets_message(data: Mapping[str, Any], **_: Any) -> None:
    """Log one line in place of the fifty that a raylet sends to the driver for each process that it ends for memory.

    What it sends of others is left out: the work that is lost with them is told of.
    """
    text = "\n".join(data["lines"])
    if "running low on memory" in text:
        logger.warning("%s", out_of_memory(text).text)
