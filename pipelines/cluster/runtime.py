"""What every job does around its work: connect to Ray, and end with one line instead of a traceback."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from animatediff.errors import UserError
from pipelines.cluster.ray_address import VARIABLE, cluster_address
from pipelines.terminal import interrupts
from pipelines.terminal.failures import in_one_line, log_raylets_message
from pipelines.terminal.logs import configure_logging
from pipelines.terminal.lost_processes import find_lost_process

logger = logging.getLogger(__name__)

# For the actors of `map_batches`: Ray Data's own defaults repeat a crashing task for ever.
BOUNDED_RETRIES = {"max_restarts": 4, "max_task_retries": 2}


def end_with_one_line(job: Callable[[], object]) -> None:
    """Run a job; what its user can mend ends the process with one line instead of a traceback."""
    configure_logging()
    with interrupts.exit_on_signal():
        try:
            job()
        except Exception as error:
            if find_lost_process(error):
                interrupts.wait_for_own()
            mendable = in_one_line(error)
            if mendable is None or interrupts.signal_came():
                raise
            logger.error("%s", mendable)
            sys.exit(mendable.exit_code)


def connect() -> None:
    """Join the cluster that `RAY_ADDRESS` names (`ray job submit` sets it), or start one on this machine.

    Workers' output stays in Ray's own logs: the driver reports progress and errors itself.

    Raises:
        UserError: there is no cluster at `RAY_ADDRESS` that this process can join, or Ray does not start here.
    """
    if ray.is_initialized():
        return
    _quiet_ray()
    address = cluster_address()
    if address:
        logger.info("joining the Ray cluster at %s", address)
    try:
        with interrupts.starting_ray(), without_native_stderr():
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.WARNING,
                configure_logging=False,
                **({} if address else {"include_dashboard": False}),
            )
    except Exception as error:  # of any class: Ray raises a bare one where it waited in vain
        what = (
            f"cannot join the Ray cluster at {VARIABLE}={address}" if address else "Ray does not start on this machine"
        )
        raise UserError(f"{what}: {' '.join(str(error).split())[:500]}") from error
    _quiet_ray_data()
    resources = ray.cluster_resources()
    logger.info(
        "Ray %s on %s: %d CPUs, %d GPUs",
        ray.__version__,
        address or "this machine",
        int(resources.get("CPU", 0)),
        int(resources.get("GPU", 0)),
    )


def _quiet_ray() -> None:
    # The driver's C++ side repeats on standard error what Ray's log files hold (restart hints, lost connections).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Tracebacks of calls that nobody waits for, as those to Ray Data's statistics, whose actor may die as others do.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    # A task that Ray ended to free memory is repeated for ever by default. It waits 1, 2, 4, ... s before each time.
    os.environ.setdefault("RAY_task_oom_retries", "6")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # These messages pass by `log_to_driver`.
    ray._private.worker.print_to_stdstream = log_raylets_message
    # `max_restarts` has no named parameter in `map_batches` yet, and Ray's default restarts for ever.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")


@contextmanager
def without_native_stderr() -> Iterator[None]:
    """Let file descriptor 2 lead nowhere.

    Ray's C++ side announces there, of which log level it is; errors of `ray.init` come as exceptions.
    """
    saved = os.dup(2)
    with Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _quiet_ray_data() -> None:
    # The jobs show their own progress; Ray Data's bars and plans would be drawn over it.
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What these say of an error is raised as well.
    for name in ("exceptions", "_internal.execution.operators.actor_pool_map_operator"):
        logging.getLogger(f"ray.data.{name}").setLevel(logging.CRITICAL)


def num_cpus() -> int:
    """Return the number of CPUs of the connected cluster."""
    return int(ray.cluster_resources().get("CPU", 0))


def num_gpus() -> int:
    """Return the number of GPUs of the connected cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def wants_gpus(use_gpu: bool | None) -> bool:
    """Whether workers get GPUs: as it is asked, else if the connected cluster has any."""
    found = num_gpus()
    if use_gpu and not found:
        logger.warning("use_gpu is set, but the cluster has no GPU: waiting until it has one")
    return found > 0 if use_gpu is None else use_gpu


def actor_on_driver_node(cls: type, *arguments: Any) -> ActorHandle:
    """Return an actor that takes no CPU and lives on the driver's machine: on another it could be lost alone."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(cls).remote(*arguments)
