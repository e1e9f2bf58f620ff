"""Every way in which Ray tells of a lost process is one line: what, why, its log, what is kept, what to lower."""

import logging

import pytest
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from animatediff.errors import UserError
from pipelines.terminal import deaths
from pipelines.terminal.failures import (
    DroppedBlockReasons,
    as_user_errors,
    describe_failure,
    find_user_error,
    in_one_line,
    log_raylets_message,
)
from pipelines.terminal.lost_processes import is_lost_process

OUT_OF_MEMORY = (
    """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.3, \
ID: 21b8) was 23.10GB used / 23.54GB limit (0.981)
Selected to kill: (Task: job ID=01000000, task name=Dispatcher.__init__, required resources={}, pid=7163, \
actual memory used=0.04GB, worker ID=4b13)
To see more information about memory usage on this node, use `ray logs raylet.out -ip 10.0.0.3`
"""
    + "6998 0.10 python job.py\n" * 30
)
KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file."
)

BROKEN = (
    "Worker exit type: SYSTEM_ERROR Worker exit detail: The leased worker has unrecoverable failure. Worker is "
    "requested to be destroyed when it is returned. RPC error: Socket closed"
)


def died(message):
    context = ActorDiedErrorContext(
        error_message=message, class_name="Dispatcher", actor_id=bytes(16), pid=4321, node_ip_address="10.0.0.3"
    )
    return ActorDiedError(context)


def raised(cause):
    """As `ray.get` raises it: of the class of the cause as well, if that can be."""
    return RayTaskError(
        "work", f"Traceback ...\n  File x\n{cause}", cause, "ray::work", 1, "10.0.0.3"
    ).as_instanceof_cause()


def of_training(cause):
    return WorkerGroupError("90 lines", {1: WorkerHealthCheckFailedError("A worker health check failed.", cause)})


def chained(cause):
    try:
        raise RuntimeError("the pipeline has failed") from cause
    except RuntimeError as error:
        return error


def line(error):
    mendable = in_one_line(error, what_is_kept="all is kept", memory_fields="batch_size")
    assert type(mendable) is UserError
    text = str(mendable)
    assert "\n" not in text
    assert len(text) < 600
    return text


LOSSES = [
    (OutOfMemoryError(OUT_OF_MEMORY), "10.0.0.3 ran out of memory (23.10GB used / 23.54GB)", True),
    (OutOfMemoryError(OUT_OF_MEMORY), "Ray ended Dispatcher (pid 7163)", True),
    (
        OutOfMemoryError(f"{OUT_OF_MEMORY}Ray killed 3 worker(s) based on the killing policy"),
        "Ray ended 3 processes there",
        True,
    ),
    (OutOfMemoryError("of another Ray, in other words"), "a machine ran out of memory", True),
    (died(KILLED), "Dispatcher (pid 4321 on 10.0.0.3) was killed, as the system does where memory runs out", True),
    (died(KILLED), "worker-*-4321.err", True),
    (died(BROKEN), "Dispatcher (pid 4321 on 10.0.0.3) was killed, as the system does where memory runs out", True),
    (died("Worker exit type: NODE_OUT_OF_MEMORY"), "was ended by Ray, as its machine ran out of memory", True),
    (died("The actor died because its node has died."), "Dispatcher was lost with its machine 10.0.0.3", False),
    (died("Worker exit detail: Exit code 3."), "ended: Exit code 3.", False),
    (exceptions.WorkerCrashedError(), "was killed, as the system does where memory runs out, or crashed", True),
    (exceptions.NodeDiedError("no heartbeats"), "a machine of the cluster was lost (no heartbeats)", False),
    (exceptions.ObjectStoreFullError("x"), "object store on a machine is full", True),
    (exceptions.OutOfDiskError("x"), "the disk of a machine, where Ray keeps its session, is full", False),
    (exceptions.LocalRayletDiedError(), "Ray's own process on a machine was lost", False),
    (exceptions.OwnerDiedError("ab", None, ""), "a result was lost together with the process", False),
    (exceptions.ActorUnavailableError("timeout", None), "a process of the job does not answer", False),
    (exceptions.RuntimeEnvSetupError("no pip"), "the workers' environment cannot be set up", False),
]


@pytest.mark.parametrize("wrap", [lambda e: e, raised, chained, of_training])
@pytest.mark.parametrize(("error", "said", "lacks_memory"), LOSSES)
def test_a_loss_is_one_line_however_it_is_wrapped(error, said, lacks_memory, wrap):
    text = line(wrap(error))
    assert said in text
    assert "; all is kept" in text
    assert ("where memory is short, lower batch_size" in text) is lacks_memory


@pytest.mark.parametrize(("error", "said", "lacks_memory"), LOSSES)
def test_who_asks_a_lost_process_knows_it_from_one_that_raised(error, said, lacks_memory):
    assert is_lost_process(error)
    assert not is_lost_process(raised(ValueError("a bug")))
    assert not is_lost_process(raised(error))  # what the other met is not its own end


def test_a_users_error_comes_through_alone():
    mine = UserError("the bucket is closed")
    for error in (
        mine,
        raised(mine),
        chained(raised(mine)),
        WorkerGroupError("90 lines", {0: raised(mine)}),
        ControllerError(mine),
    ):
        assert find_user_error(error) is mine
        with (
            pytest.raises(UserError, match="^the bucket is closed$"),
            as_user_errors(what_is_kept="", memory_fields=""),
        ):
            raise error


def test_a_worker_that_refuses_to_start_says_why():
    told = died("")
    told.error_msg = "The actor died because ...\nTraceback\nanimatediff.errors.UserError: its device cannot be used"
    told._actor_init_failed = True
    assert line(told) == "no worker can start: its device cannot be used; all is kept"


def test_workers_that_do_not_reach_one_another_are_told_with_what_to_mend():
    """As a cluster of two machines said it, whose names resolved to 127.0.0.1."""
    gloo = RuntimeError(
        "Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: SO_ERROR: Connection refused, "
        "remote=[127.0.0.1]:29099$1"
    )
    setup = RayTaskError("execute", f'Traceback\n  File "a.py", line 1\nRuntimeError: {gloo}\n', gloo)
    error = ControllerError(setup)
    line = str(in_one_line(error, what_is_kept="the checkpoints are kept"))
    assert "do not reach one another over the network" in line
    assert "remote=[127.0.0.1]:29099" in line
    assert "GLOO_SOCKET_IFNAME" in line
    assert line.endswith("the checkpoints are kept")
    assert "\n" not in line


def test_bugs_keep_their_traceback():
    for error in (ValueError("x"), raised(ValueError("x")), chained(KeyError("x"))):
        assert in_one_line(error) is None
        with pytest.raises(type(error)), as_user_errors(what_is_kept="", memory_fields=""):
            raise error


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ("*** SIGSEGV received at time=1 on cpu 0 ***", "crashed (SIGSEGV)"),
        ("Fatal Python error: Aborted\n\nThread 0x1", "crashed (Aborted)"),
        ("a warning", "was killed, as the system does"),
    ],
)
def test_a_crash_is_told_from_a_kill_by_the_log(monkeypatch, tmp_path, left, said):
    monkeypatch.setattr(deaths, "logs_folder", lambda: str(tmp_path))
    (tmp_path / "worker-ab-01-4321.err").write_text(left)
    assert said in line(died(KILLED))


def test_lost_blocks_are_told_once_a_reason(caplog):
    streaming = logging.getLogger("ray.data._internal.execution.streaming_executor_state")
    with caplog.at_level(logging.WARNING), DroppedBlockReasons() as dropped:
        assert dropped.reason is None
        for error in (died(KILLED), OutOfMemoryError(OUT_OF_MEMORY), died(KILLED), raised(ValueError("one\ntwo"))):
            streaming.error("An exception was raised", exc_info=error)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert all(each.startswith("a part of the work is lost: ") and "\n" not in each for each in lines)
    assert "ValueError: two" in lines[2]
    assert dropped.reason.startswith("Dispatcher (pid 4321")
    assert "; or: " in dropped.reason
    streaming.error("after it", exc_info=died(KILLED))
    assert caplog.records[-1].getMessage() == "after it"


def test_a_raylets_fifty_lines_are_one_and_those_of_other_ends_none(caplog):
    log_raylets_message({"lines": [OUT_OF_MEMORY], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    log_raylets_message(
        {"lines": ["A worker died or was killed while executing a task"], "pid": "raylet", "is_err": False}
    )
    (record,) = caplog.records
    assert record.getMessage().startswith("10.0.0.3 ran out of memory")


def test_what_a_workers_code_raised_is_told_and_not_rays_advice(monkeypatch):
    """Ray Data puts three lines of its own behind the traceback."""
    monkeypatch.setattr("pipelines.terminal.failures.logs_folder", lambda: "LOGS")
    traceback = (
        'ray::MapWorker(MapBatches(RenderSlices)).submit() (pid=1)\n  File "worker.py", line 97, in __call__\n'
        "    raise x\nTypeError: unhashable type: 'dict'\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "ray.exceptions.UserCodeException: UDF failed to process a data block.\nTo change retry attempts, configure it"
    )
    advice = exceptions.UserCodeException("UDF failed to process a data block.\nTo change retry attempts, configure it")
    error = RayTaskError("submit", traceback, advice).as_instanceof_cause()
    assert describe_failure(error) == "TypeError: unhashable type: 'dict'; see the workers' logs in LOGS"
