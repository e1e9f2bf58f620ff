"""Training on Ray Train's workers, and how their metrics reach the driver.

Ray Train keeps `checkpoints/` in the run's folder, with a list of the checkpoints that are whole. Starting it again
on that folder, in this job after a failure or in the next one after a kill, continues from the newest.
"""

import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig
from ray.train import ScalingConfig as RayScalingConfig

from animatediff import storage
from animatediff.errors import UserError
from animatediff.training.recipe import Recipe
from animatediff.training.state import MOTION_MODULE
from animatediff.training.trainer import StepResult, Trainer
from animatediff.weights import motion_modules
from pipelines.runtime import find_user_error, num_gpus
from pipelines.settings import ScalingConfig, TrainConfig
from pipelines.stages.metrics_board import MetricsBoard

_POLL_S = 0.5


@dataclass(frozen=True)
class Workers:
    """How many workers, and what each has."""

    number: int
    use_gpu: bool
    cpus: float

    @classmethod
    def plan(cls, scaling: ScalingConfig, *, batch_size: int) -> "Workers":
        """The workers on the connected cluster, defaults filled in.

        Raises:
            UserError: GPUs are wanted, but neither config nor cluster says how many.
        """
        gpus = num_gpus()
        use_gpu = gpus > 0 if scaling.use_gpu is None else scaling.use_gpu
        if use_gpu and scaling.num_workers is None and not gpus:
            raise UserError("scaling.use_gpu needs scaling.num_workers on a cluster that has no GPU yet")
        most = gpus if use_gpu else 1
        number = scaling.num_workers or max(n for n in range(1, most + 1) if batch_size % n == 0)
        return cls(number, use_gpu, scaling.cpus_per_worker or (1.0 if use_gpu else _cpu_share(number)))


def _cpu_share(num_workers: int) -> float:
    """CPUs of the smallest machine, shared by the workers that it gets."""
    machines = [cpus for node in ray.nodes() if node["Alive"] and (cpus := node["Resources"].get("CPU", 0))]
    return float(min(machines) / math.ceil(num_workers / len(machines)))


def train(config: TrainConfig, recipe: Recipe, workers: Workers) -> Iterator[dict[str, float]]:
    """Train to the recipe's last step and write the motion module.

    Yields:
        What rank 0 measured: `step`, `loss`, `grad_norm`, `lr`, `clips_per_s` and `data_wait` (the share of the time
        spent waiting for data). The first entry of a start has `step` alone: the steps done before.

    Raises:
        UserError: what a worker raised, after `scaling.max_failures` new starts.
        TrainingFailedError: the workers failed otherwise.
    """
    # Ray's controller looks at the workers every 2 s by default, and each checkpoint and the end wait for its look.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    board = ray.remote(num_cpus=0)(MetricsBoard).remote()
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        # The recipe as plain values: Ray's controller opens this too, and should not import torch for it.
        train_loop_config={
            "recipe": recipe.model_dump(),
            "run_uri": storage.absolute(config.output_uri),
            "board": board,
        },
        scaling_config=RayScalingConfig(
            num_workers=workers.number,
            use_gpu=workers.use_gpu,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": 1} if workers.use_gpu else {}),
        ),
        run_config=_run_config(config),
    )
    fit = _start(trainer)
    while not fit.done():
        wait([fit], timeout=_POLL_S)
        yield from ray.get(board.take.remote())
    _raise_failure(fit)


def _run_config(config: TrainConfig) -> RunConfig:
    fs, path = storage.filesystem(config.output_uri)
    return RunConfig(
        name="checkpoints",
        storage_path=path,
        storage_filesystem=None if storage.is_local(config.output_uri) else PyFileSystem(FSSpecHandler(fs)),
        failure_config=FailureConfig(max_failures=config.scaling.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=config.num_checkpoints),
    )


def _start(trainer: Any) -> Future[Any]:
    """Run the trainer in a thread: the main one shows progress, and Ctrl-C stays ours."""
    future: Future[Any] = Future()

    def fit() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=fit, daemon=True, name="ray-train").start()
    return future


def _raise_failure(fit: Future[Any]) -> None:
    error = fit.exception()
    for failure in getattr(error, "worker_failures", {}).values():
        mendable = find_user_error(failure)
        if mendable is not None:
            raise mendable from error
    if error is not None:
        raise error


def train_worker(settings: dict[str, Any]) -> None:
    """What every worker runs.

    Args:
        settings: `recipe` (its fields), `run_uri`, and `board`, the handle of a `MetricsBoard`.

    Raises:
        UserError: the data or the base cannot be read, or the loss is not finite any more.
    """
    recipe = Recipe.model_validate(settings["recipe"])
    context = ray.train.get_context()
    device = _claim_device()
    trainer = Trainer(recipe, device=device, rank=context.get_world_rank(), world_size=context.get_world_size())
    start = _restore(trainer)
    meter = _Meter(trainer, recipe, settings["board"], start)
    for done, result in trainer.steps(start):
        meter.add(result)
        is_checkpoint = done % recipe.train.checkpoint_every == 0 or done == recipe.train.num_steps
        if is_checkpoint or done % recipe.train.log_every == 0:
            meter.post(done)
        if is_checkpoint:
            _checkpoint(trainer, done)
    if context.get_world_rank() == 0:
        motion_modules.write(storage.join(settings["run_uri"], MOTION_MODULE), trainer.unet.motion)


def _claim_device() -> torch.device:
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        torch.set_num_threads(max(1, int(cpus)))
    return device


def _restore(trainer: Trainer) -> int:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        return trainer.load(Path(folder))


def _checkpoint(trainer: Trainer, step: int) -> None:
    """Hand the state to Ray Train; every worker calls it, as it waits for all, and rank 0 brings the files."""
    name = f"step-{step:08d}"
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report({"step": step}, checkpoint_dir_name=name)
        return
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(Path(folder), step=step)
        ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder), checkpoint_dir_name=name)


class _Meter:
    """Sums up the steps since the last post; only then does it wait for the device."""

    def __init__(self, trainer: Trainer, recipe: Recipe, board: Any, start: int) -> None:
        self._trainer, self._recipe, self._board = trainer, recipe, board
        self._is_first = ray.train.get_context().get_world_rank() == 0
        if self._is_first:
            board.post.remote({"step": start})
        self._clear()

    def _clear(self) -> None:
        self._results: list[StepResult] = []
        self._since, self._waited_s = time.perf_counter(), self._trainer.loader.wait_s

    def add(self, result: StepResult) -> None:
        self._results.append(result)

    def post(self, step: int) -> None:
        loss = _mean_over_workers(torch.stack([result.loss for result in self._results]).mean())
        grad_norm = float(self._results[-1].grad_norm)
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise UserError(
                f"the loss is {loss} and the gradient's norm {grad_norm} at step {step}: "
                f"try a lower optim.lr than {self._recipe.optim.lr}"
            )
        elapsed_s = time.perf_counter() - self._since
        entry = {
            "step": step,
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": float(self._trainer.optimizer.param_groups[0]["lr"]),
            "clips_per_s": len(self._results) * self._recipe.train.batch_size / elapsed_s,
            "data_wait": (self._trainer.loader.wait_s - self._waited_s) / elapsed_s,
        }
        if self._is_first:
            self._board.post.remote(entry)
        self._clear()


def _mean_over_workers(value: torch.Tensor) -> float:
    world_size = ray.train.get_context().get_world_size()
    if world_size > 1:
        torch.distributed.all_reduce(value)
    return float(value) / world_size
