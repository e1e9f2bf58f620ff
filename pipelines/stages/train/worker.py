"""What every training worker runs: its steps, its checkpoints, and what it tells the driver."""

import hashlib
import posixpath
import resource
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import Checkpoint, CheckpointUploadMode, ValidationTaskConfig

from animatediff import storage
from animatediff.errors import UserError
from animatediff.models.computing.threads import use_threads
from animatediff.training.config import TrainingConfig
from animatediff.training.settings import RecipeConfig
from animatediff.training.state.checkpoint_files import DamagedCheckpointError
from animatediff.training.trainer import StepResult, Trainer, all_gather_lists
from pipelines.outputs.file_names import RUN_FILE
from pipelines.stages.train.checkpoints import checkpoint_name
from pipelines.stages.train.stop_notice import StopNotice

# Longer than any validation on a GPU. The end of a run waits for its validations, also for one whose GPU was lost.
_VALIDATION_TIMEOUT_S = 3600.0
_MOST_UPLOADS = 2
_UPLOAD_POLL_S = 0.2


def train_worker(settings: dict[str, Any]) -> None:
    """Train, as one of the workers.

    Args:
        settings: `recipe` (its config's fields), `run_uri`, `worker_mailbox`, the handle of a `WorkerMailbox`, and
            `validate_every`, steps or 0.

    Raises:
        UserError: the data, the base or a weights file cannot be read, the loss stays infinite, more steps are done
            than are asked for, or this machine does not see the run's folder.
    """
    storage.use_patient_retries()
    config = TrainingConfig.model_validate(settings["recipe"])
    context = ray.train.get_context()
    _check_run_folder_is_shared(settings["run_uri"])
    device = _claim_device()
    trainer = Trainer(config, device=device, rank=context.get_world_rank(), world_size=context.get_world_size())
    start = _load_checkpoint(trainer, settings["worker_mailbox"])
    if start is None:
        return
    if start > config.train.num_steps:
        raise UserError(
            f"the run has done {start} steps already, more than train.num_steps {config.train.num_steps}: raise it to "
            f"{start} to get the weights of its last checkpoint"
        )
    checkpoints = _CheckpointUploader(trainer, settings["run_uri"], settings["validate_every"])
    step_metrics = _StepMetrics(trainer, config, settings["worker_mailbox"], start)
    notice = StopNotice(settings["worker_mailbox"])
    for done, result in trainer.steps(start):
        step_metrics.add(result)
        is_checkpoint = done % config.train.checkpoint_every == 0 or done == config.train.num_steps
        if is_checkpoint or done % config.train.log_every == 0:
            step_metrics.report(done)
        told = notice.poll()
        if told == "drain":
            step_metrics.tell_of_drain(done)
        if is_checkpoint or told:
            checkpoints.save(done)
        if told == "stop":
            step_metrics.close()
            return
    step_metrics.close()
    if context.get_world_rank() == 0:
        trainer.write_weights(storage.join(settings["run_uri"], trainer.recipe.weights_file))


def _check_run_folder_is_shared(run_uri: str) -> None:
    """Find out at once, and not at the first checkpoint, that a local folder is another one on each machine."""
    if not storage.exists(storage.join(run_uri, RUN_FILE)):
        raise UserError(
            f"the machine {socket.gethostname()} does not see the run's folder {run_uri}: with workers on several "
            "machines, output_uri must be storage that all of them share, such as s3:// or a network disk"
        )


def _claim_device() -> torch.device:
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        use_threads(max(1, int(cpus)))
    return device


def _load_checkpoint(trainer: Trainer, worker_mailbox: Any) -> int | None:
    """Return the steps done before.

    None if the checkpoint is damaged, of which the driver is told: it starts workers anew.

    All workers end alike, or those whose copy is whole would wait for the others for ever.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    context, start, damage = ray.train.get_context(), 0, []
    try:
        with checkpoint.as_directory() as folder:
            start = trainer.load(Path(folder))
    except (DamagedCheckpointError, FileNotFoundError) as error:
        damage.append(str(error))
    if not all_gather_lists(damage, context.get_world_size()):
        return start
    if context.get_world_rank() == 0:
        ray.get(worker_mailbox.put.remote({"damaged": posixpath.basename(checkpoint.path)}))
    return None


class _CheckpointUploader:
    """Hands states to Ray Train, which uploads them while training goes on.

    Every worker calls `save`, as it waits for all; rank 0 brings the files.
    """

    def __init__(self, trainer: Trainer, run_uri: str, validate_every: int) -> None:
        self._trainer, self._validate_every = trainer, validate_every
        # Named by the run, so that what a killed worker left behind is found and removed.
        self._local = Path(tempfile.gettempdir()) / f"animatediff-{hashlib.sha256(run_uri.encode()).hexdigest()[:16]}"
        self._is_rank_zero = ray.train.get_context().get_world_rank() == 0
        if self._is_rank_zero:
            shutil.rmtree(self._local, ignore_errors=True)

    def save(self, step: int) -> None:
        name = checkpoint_name(step)
        self._trainer.skipped_steps.check_last_step()  # so that the checkpoint counts the newest step if it was skipped
        if not self._is_rank_zero:
            ray.train.report(
                {"step": step}, checkpoint_dir_name=name, checkpoint_upload_mode=CheckpointUploadMode.ASYNC
            )
            return
        self._wait_for_uploads()
        folder = self._local / name
        folder.mkdir(parents=True)
        self._trainer.save(folder, step=step)
        is_validated = self._validate_every > 0 and step % self._validate_every == 0
        ray.train.report(
            {"step": step},
            checkpoint=Checkpoint.from_directory(str(folder)),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
            validation=ValidationTaskConfig({"step": step}, _VALIDATION_TIMEOUT_S) if is_validated else False,
        )

    def _wait_for_uploads(self) -> None:
        """Wait where the storage is slower than the training, before checkpoints fill the machine's disk.

        One whose upload failed stays, but then Ray Train ends this worker.
        """
        while self._local.exists() and len(list(self._local.iterdir())) >= _MOST_UPLOADS:
            time.sleep(_UPLOAD_POLL_S)


class _StepMetrics:
    """Sums up the steps since the last report; only then does it wait for the device."""

    def __init__(self, trainer: Trainer, config: RecipeConfig, worker_mailbox: Any, start: int) -> None:
        self._trainer, self._config, self._worker_mailbox = trainer, config, worker_mailbox
        self._is_rank_zero = ray.train.get_context().get_world_rank() == 0
        self._last_put: Any = None
        self._put({"step": start, "num_workers": ray.train.get_context().get_world_size()})
        self._clear()

    def _clear(self) -> None:
        self._results: list[StepResult] = []
        self._since, self._waited_s = time.perf_counter(), self._trainer.loader.wait_s

    def _put(self, entry: dict[str, Any]) -> None:
        if self._is_rank_zero:
            self._last_put = self._worker_mailbox.put.remote(entry)

    def add(self, result: StepResult) -> None:
        self._results.append(result)
        self._report_skipped_steps()

    def tell_of_drain(self, step: int) -> None:
        self._put({"drained": step})

    def close(self) -> None:
        """Tell of the last step too if it was skipped, and wait until all that was told has arrived."""
        self._report_skipped_steps()
        if self._last_put is not None:
            ray.get(self._last_put)

    def _report_skipped_steps(self) -> None:
        skips = self._trainer.skipped_steps
        for skip in skips.unreported:
            self._put({"skipped": skip.step + 1, "clip_ids": skip.clip_ids})
        skips.unreported.clear()

    def report(self, step: int) -> None:
        losses, counts = _sum_over_workers(torch.stack([result.loss_sums for result in self._results]).sum(dim=0)).cpu()
        elapsed_s = time.perf_counter() - self._since
        quarters = {f"loss_q{i + 1}": losses[i] / counts[i] for i in range(len(counts)) if counts[i]}
        entry = {
            "step": step,
            "loss": losses.sum() / counts.sum(),
            **quarters,
            "grad_norm": self._results[-1].grad_norm,
            "lr": self._trainer.optimizer.param_groups[0]["lr"],
            "clips_per_s": len(self._results) * self._config.train.batch_size / elapsed_s,
            "data_wait": (self._trainer.loader.wait_s - self._waited_s) / elapsed_s,
            "peak_memory_gb": _peak_memory_gb(),
            "skipped_steps": self._trainer.skipped_steps.number,
        }
        self._put({name: float(value) for name, value in entry.items()})
        self._clear()


def _sum_over_workers(value: torch.Tensor) -> torch.Tensor:
    if ray.train.get_context().get_world_size() > 1:
        torch.distributed.all_reduce(value)
    return value


def _peak_memory_gb() -> float:
    """Return the most that this worker has taken, of the GPU or else of the machine, in 10^9 bytes."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
