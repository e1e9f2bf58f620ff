"""Training on Ray Train's workers, and how their metrics reach the driver.

Ray Train keeps `checkpoints/` in the run's folder, with a list of the checkpoints that are whole. Starting it again
on that folder, in this job after a failure or in the next one after a kill, continues from the newest.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ValidationConfig
from ray.train import ScalingConfig as RayScalingConfig

from animatediff import storage
from animatediff.errors import UserError
from animatediff.training.recipes.recipe import Recipe
from pipelines.cluster.object_store import FunctionInObjectStore
from pipelines.cluster.runtime import actor_on_driver_node, num_gpus, wants_gpus
from pipelines.cluster.worker_start import waiting_for_workers
from pipelines.settings import ScalingConfig, TrainJobConfig
from pipelines.stages.train.checkpoints import (
    CHECKPOINTS_FOLDER,
    CheckpointIndexChangedError,
    ReportCheckpoints,
    checkpoint_names,
    repair_checkpoint_index,
    storage_error_as_user_error,
)
from pipelines.stages.train.sample import Renderer
from pipelines.stages.train.validate import Validator
from pipelines.stages.train.worker import train_worker
from pipelines.stages.train.worker_mailbox import WorkerMailbox
from pipelines.terminal import interrupts
from pipelines.terminal.failures import as_user_errors

logger = logging.getLogger(__name__)

_POLL_S = 0.5
# For the last checkpoint of a run that a signal ends, of the 20 s that a job has to clean up.
_LAST_CHECKPOINT_S = 10.0
# A busy machine takes seconds to answer whether there is anything to save; with the checkpoint it stays below 20 s.
_ANSWER_S = 5.0
_INDEX_TRIES = 4
_INDEX_RETRY_S = 2.0
_WHAT_IS_KEPT = "the checkpoints are kept, and the same command goes on from the last"
_MEMORY_FIELDS = "compute.micro_batch_size, train.batch_size or scaling.num_workers"


@dataclass(frozen=True)
class Workers:
    """How many workers train, and what each has."""

    number: int | tuple[int, int]
    """Workers that train, or the fewest and the most."""
    use_gpu: bool
    cpus: float
    spare_gpu: bool
    """Whether the cluster has a GPU that no worker takes."""

    @property
    def needs(self) -> dict[str, float]:
        """What Ray reserves for one worker."""
        return {"CPU": self.cpus} | ({"GPU": 1} if self.use_gpu else {})

    @classmethod
    def plan(cls, scaling: ScalingConfig, *, batch_size: int, validates: bool) -> "Workers":
        """Return the workers on the connected cluster, defaults filled in.

        Args:
            scaling: what the config says.
            batch_size: clips in a step; there are no more workers than that.
            validates: whether checkpoints are validated on the way, for which one of several GPUs is then left.

        Raises:
            UserError: GPUs are wanted, but neither config nor cluster says how many.
        """
        gpus = num_gpus()
        if scaling.use_gpu and scaling.num_workers is None and not gpus:
            raise UserError("scaling.use_gpu needs scaling.num_workers on a cluster that has no GPU yet")
        use_gpu = wants_gpus(scaling.use_gpu)
        for_training = gpus - 1 if validates and gpus > 1 else gpus
        number = scaling.num_workers or (min(for_training, batch_size) if use_gpu else 1)
        most = number if isinstance(number, int) else number[1]
        cpus = scaling.cpus_per_worker or (1.0 if use_gpu else _cpu_share(most))
        spare_gpu = use_gpu and gpus > most
        if use_gpu and validates and not spare_gpu:
            logger.warning(
                "sample.every: all GPUs train, so that checkpoints are validated on the CPU, which can take very long; "
                "a lower scaling.num_workers leaves one for it"
            )
        return cls(number, use_gpu, cpus, spare_gpu)


def _cpu_share(num_workers: int) -> float:
    """Return the CPUs of the smallest machine, shared by the workers that it gets."""
    machines = [cpus for node in ray.nodes() if node["Alive"] and (cpus := node["Resources"].get("CPU", 0))]
    return float(min(machines) / math.ceil(num_workers / len(machines)))


def run_workers(
    config: TrainJobConfig, recipe: Recipe, workers: Workers, renderer: Renderer
) -> Generator[dict[str, Any], None, None]:
    """Run the workers until the recipe's last step is done and the weights file is written.

    Yields:
        What rank 0 measured: `step`, `loss`, `loss_q1` to `loss_q4` (by quarters of the timesteps, from clean to
        noisy), `grad_norm`, `lr`, `clips_per_s`, `data_wait` (the share of the time spent waiting for data),
        `peak_memory_gb` and `skipped_steps`. The first entry of a start has `step`, the steps done before,
        and `num_workers` alone. All other kinds of entries are as `WorkerMailbox` describes them.

    Raises:
        UserError: what a worker raised, or that one was lost, after `scaling.max_failures` new starts; or no checkpoint
            of the run is whole.
        TrainingFailedError: the workers raised anything else.
    """
    # Ray's controller looks at the workers every 2 s by default, and each checkpoint and the end wait for its look.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A drained machine is looked for every 5 s, of 30 s that some clouds give.
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    run_uri, worker_mailbox = storage.absolute(config.output_uri), actor_on_driver_node(WorkerMailbox)
    # A look at names and sizes tells most damage; bytes that differ are found by the workers, which read them all.
    damaged: list[str] = []
    num_tries_left = _INDEX_TRIES
    has_ended = False
    while not has_ended:
        repair_checkpoint_index(run_uri, damaged)
        trainer = _make_trainer(config, recipe, workers, renderer, worker_mailbox)
        has_ended = True
        try:
            for entry in _fit_once(trainer, workers, worker_mailbox, run_uri):
                if "damaged" in entry:  # the workers have ended at once: new ones begin with the checkpoint before
                    damaged.append(entry["damaged"])
                    has_ended = False
                else:
                    yield entry
        except CheckpointIndexChangedError:
            # The processes of a run that was killed a moment ago end when they find their driver gone.
            num_tries_left -= 1
            if num_tries_left == 0:
                raise
            logger.info("the list of the checkpoints was written to just now, by a run that is ending: trying again")
            time.sleep(_INDEX_RETRY_S)
            has_ended = False


def _fit_once(trainer: Any, workers: Workers, worker_mailbox: Any, run_uri: str) -> Iterator[dict[str, Any]]:
    """Start the workers once, and yield what they measure until they end."""
    number = workers.number if isinstance(workers.number, int) else workers.number[0]
    before = checkpoint_names(run_uri)
    fit = _fit_in_thread(trainer)
    with (
        as_user_errors(what_is_kept=_WHAT_IS_KEPT, memory_fields=_MEMORY_FIELDS),
        waiting_for_workers(
            "training worker", number, workers.needs, classes=("RayTrainWorker",), memory_fields=_MEMORY_FIELDS
        ) as end_waiting,
    ):
        with _checkpoint_on_signal(fit, worker_mailbox, run_uri):
            while not fit.done():
                wait([fit], timeout=_POLL_S)
                if entries := ray.get(worker_mailbox.take.remote()):
                    end_waiting()
                yield from entries
        yield from ray.get(worker_mailbox.take.remote())  # entries put after the last poll
        with storage_error_as_user_error(run_uri, before):
            fit.result()


@contextmanager
def _checkpoint_on_signal(fit: Future[Any], worker_mailbox: Any, run_uri: str) -> Iterator[None]:
    """Ask the workers for one more checkpoint where a signal ends the block, and wait for it, but not for long."""
    try:
        yield
    except BaseException:
        # Only on a signal: after any other end the lease may be lost and the folder another job's.
        with suppress(RayError, UserError):
            if interrupts.signal_came() and _stop_workers(worker_mailbox):
                logger.info("saving one more checkpoint, for which %.0f s are left", _LAST_CHECKPOINT_S)
                wait([fit], timeout=_LAST_CHECKPOINT_S)
                if fit.done() and fit.exception() is None:
                    logger.info("saved before the end: checkpoint %s", max(checkpoint_names(run_uri), default="none"))
                else:
                    logger.warning("one more checkpoint takes too long: the last one before counts")
        raise


def _stop_workers(worker_mailbox: Any) -> bool:
    """Ask the workers to save and to end; return whether they have begun."""
    worker_mailbox.request_stop.remote()
    return bool(ray.get(worker_mailbox.has_begun.remote(), timeout=_ANSWER_S))


def _make_trainer(
    config: TrainJobConfig, recipe: Recipe, workers: Workers, renderer: Renderer, worker_mailbox: Any
) -> Any:
    validator = Validator(renderer, storage.absolute(config.output_uri), worker_mailbox, has_idle_cpus=workers.use_gpu)
    return ray.train.torch.TorchTrainer(
        train_worker,
        # The recipe's config as plain values: Ray's controller opens this too, and should not import torch for it.
        train_loop_config={
            "recipe": recipe.resolved_config.model_dump(),
            "run_uri": storage.absolute(config.output_uri),
            "worker_mailbox": worker_mailbox,
            "validate_every": config.sample.every,
        },
        scaling_config=RayScalingConfig(
            num_workers=workers.number,
            use_gpu=workers.use_gpu,
            resources_per_worker=workers.needs,
        ),
        run_config=_run_config(config, worker_mailbox),
        validation_config=ValidationConfig(
            fn=FunctionInObjectStore(validator),
            # No CPU of its own: on a full cluster it would never come, and the workers' share stays theirs.
            ray_remote_kwargs={"num_cpus": 0, "num_gpus": 1 if workers.spare_gpu else 0, "max_retries": 0},
        ),
    )


def _run_config(config: TrainJobConfig, worker_mailbox: Any) -> RunConfig:
    fs, path = storage.filesystem(config.output_uri)
    return RunConfig(
        name=CHECKPOINTS_FOLDER,
        storage_path=path,
        storage_filesystem=None if storage.is_local(config.output_uri) else PyFileSystem(FSSpecHandler(fs)),
        failure_config=FailureConfig(max_failures=config.scaling.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=config.num_checkpoints),
        callbacks=[ReportCheckpoints(worker_mailbox)],
    )


def _fit_in_thread(trainer: Any) -> Future[Any]:
    """Run the trainer in a thread: the main one shows progress, and Ctrl-C stays ours."""
    future: Future[Any] = Future()

    def fit() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=fit, daemon=True, name="ray-train").start()
    return future
