"""The driver's side of training: progress on the terminal, metrics to MLflow and Prometheus, the state on disk."""

import json
import logging
import posixpath
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from animatediff import storage
from animatediff.errors import UserError
from animatediff.training.settings import TrainingLoopConfig
from pipelines.outputs.file_names import SKIPPED_FILE
from pipelines.settings import TrainJobConfig
from pipelines.stages.train.launch import Workers
from pipelines.stages.train.run import RunState, TrainJob
from pipelines.stages.train.sample import Renderer, write_files
from pipelines.stages.train.validate import VALIDATION_FOLDER
from pipelines.terminal.failures import find_user_error
from pipelines.terminal.progress import Progress
from pipelines.tracking.metrics import JobMetrics
from pipelines.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

# Entries that the shown loss is averaged over: single batches of random timesteps scatter widely.
_WINDOW = 10
# Prometheus' gauges by the names of an entry.
_GAUGES = {
    "step": "animatediff_train_step",
    "loss": "animatediff_train_loss",
    "data_wait": "animatediff_train_data_wait_ratio",
}


class RunWatcher:
    """Follows a run: what comes from the workers goes to the terminal, to MLflow and into the run's folder."""

    def __init__(self, config: TrainJobConfig, run: RunState, tracker: Tracker) -> None:
        self._config, self.run, self._tracker = config, run, tracker
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._num_workers, self._is_drained = 0, False

    def follow(self, entries: Iterator[dict[str, Any]]) -> RunState:
        """Take in all entries of `run_workers`.

        Returns:
            The run's new state, not yet written.

        Raises:
            UserError: what a worker raised.
        """
        num_steps = self._config.train.num_steps
        start = self._done = self._start(entries)
        if start:
            logger.info("continuing after step %d", start)
        with Progress("train", total=num_steps - int(start), unit="step") as progress:
            for entry in entries:
                if "validated" in entry:
                    self._take_validation(entry)
                elif "skipped" in entry:
                    self._note_skip(entry)
                elif "drained" in entry:
                    self._is_drained = True
                    logger.info("a worker's machine will be taken away: saving after step %d", entry["drained"])
                elif "loss" not in entry:
                    self._note_restart(entry)
                else:
                    shown = self._take_metrics(entry)
                    # After a new start the steps since the checkpoint are done again.
                    progress.update(max(0, int(entry["step"] - self._done)), **shown)
                    self._done = max(self._done, entry["step"])
        self._keep_run_id()
        if self._losses:
            self.run = self.run.model_copy(update={"loss": sum(self._losses) / len(self._losses)})
            logger.info("loss %.4f after %d steps, %.4f at first", self.run.loss, num_steps, self.run.first_loss)
        return self.run.model_copy(update={"num_steps": num_steps})

    def _start(self, entries: Iterator[dict[str, Any]]) -> int:
        """Return the steps done before. A validation that an earlier job began may come in front."""
        for entry in entries:
            if "validated" not in entry:
                self._num_workers = entry["num_workers"]
                return int(entry["step"])
            self._take_validation(entry)
        raise UserError("the training ended before its workers began")

    def _note_restart(self, entry: dict[str, Any]) -> None:
        step, number, before = entry["step"], entry["num_workers"], self._num_workers
        change = f", {number} in place of {before}" if number != before else ""
        if self._is_drained:
            logger.info("the workers left the machine and started again after step %d%s", step, change)
        elif number > before:
            logger.info("the cluster has grown: the workers started again after step %d%s", step, change)
        else:
            logger.warning("the workers failed and started again after step %d%s", step, change)
        self._num_workers, self._is_drained = number, False

    def _keep_run_id(self) -> None:
        """MLflow may answer later than the run began; its next job is to find the MLflow run all the same."""
        if self._tracker.run_id not in (None, self.run.mlflow_run_id):
            self.run = self.run.model_copy(update={"mlflow_run_id": self._tracker.run_id})
            with _warn_on_failure("the run's state was not written"):
                self.run.write(self._config.output_uri)

    def _take_metrics(self, entry: dict[str, Any]) -> dict[str, str]:
        self._losses.append(entry["loss"])
        if self.run.first_loss is None:
            self.run = self.run.model_copy(update={"first_loss": entry["loss"]})
            with _warn_on_failure("the run's state was not written"):
                self.run.write(self._config.output_uri)
        self._tracker.log_metrics(int(entry["step"]), {name: v for name, v in entry.items() if name != "step"})
        self._keep_run_id()
        return {"loss": f"{sum(self._losses) / len(self._losses):.4f}", "clips/s": f"{entry['clips_per_s']:.1f}"}

    def _note_skip(self, entry: dict[str, Any]) -> None:
        clips = ", ".join(entry["clip_ids"]) or "none to blame: the loss scaler found its range"
        logger.warning("step %d was skipped, its loss or gradient is not finite (clips: %s)", entry["skipped"], clips)
        line = json.dumps({"step": entry["skipped"], "clip_ids": entry["clip_ids"]}) + "\n"
        uri = storage.join(self._config.output_uri, SKIPPED_FILE)
        with _warn_on_failure("the skipped step was not noted"):
            earlier = storage.read_bytes(uri) if storage.exists(uri) else b""
            storage.write_bytes(uri, earlier + line.encode())

    def _take_validation(self, entry: dict[str, Any]) -> None:
        step = int(entry["validated"])
        for error in entry["errors"]:
            logger.warning("the validation of step %d is not complete: %s", step, error)
        if entry.get("left_out"):
            clips = ", ".join(entry["left_out"])
            logger.warning("held-out clips whose loss is not finite are left out of the mean: %s", clips)
        if "val_loss" in entry:
            logger.info("held-out loss %.4f after %d steps", entry["val_loss"], step)
            self._tracker.log_metrics(step, {"val_loss": entry["val_loss"]})
        for uri in entry["files"]:
            name = posixpath.join(VALIDATION_FOLDER, f"step-{step:08d}", posixpath.basename(uri))
            with _warn_on_failure("a sample is not shown in MLflow"):
                self._tracker.log_file(name, storage.read_bytes(uri))


@contextmanager
def _warn_on_failure(what: str) -> Iterator[None]:
    """Storage that fails for a moment ends no run: what is written here is for people to look at, or comes again."""
    try:
        yield
    except (UserError, OSError) as error:
        logger.warning("%s: %s", what, error)


def track(config: TrainJobConfig, job: TrainJob, tracker: Tracker, entries: Iterator[dict[str, Any]]) -> RunState:
    """Show and track what `run_workers` yields, from the first entry to the last.

    Returns:
        The run's new state, not yet written.

    Raises:
        UserError: what a worker raised.
    """
    run = job.run.model_copy(update={"mlflow_run_id": tracker.run_id or job.run.mlflow_run_id})
    run.write(config.output_uri)
    return RunWatcher(config, run, tracker).follow(entries)


def publish_sample(
    config: TrainJobConfig, job: TrainJob, workers: Workers, renderer: Renderer, tracker: Tracker
) -> None:
    """Render the sample into the run's folder and to MLflow; a failure costs a warning, not the training."""
    gpus = 1 if workers.use_gpu else 0
    task = ray.remote(num_cpus=0 if gpus else workers.cpus, num_gpus=gpus, max_retries=0)(Renderer.render)
    try:
        files = ray.get(task.remote(renderer, job.weights_uri))
        write_files(storage.join(config.output_uri, "sample"), files)
    except Exception as error:
        logger.warning("no sample clip: %s", find_user_error(error) or error)
        return
    for name, content in files.items():
        tracker.log_file(f"sample/{name}", content)


def counted_for_prometheus(
    entries: Iterator[dict[str, Any]], settings: TrainingLoopConfig, tracker: Tracker, metrics: JobMetrics
) -> Iterator[dict[str, Any]]:
    """Export what `launch.run_workers` yields, and pass it on, but for checkpoints, of which nobody else is told."""
    last_step: float | None = None
    for entry in entries:
        metrics.set("animatediff_mlflow_up", tracker.answers)
        if "checkpoint" in entry:
            metrics.set("animatediff_train_checkpoint_timestamp_seconds", time.time())
            continue
        if "skipped" in entry:
            reason = "not_finite" if entry["clip_ids"] else "loss_scale"
            metrics.count("animatediff_train_skipped_steps_total", reason=reason)
        elif "val_loss" in entry:
            metrics.set("animatediff_train_validation_loss", entry["val_loss"])
        elif "step" in entry:
            if "loss" in entry and last_step is not None:
                _export_step_metrics(entry, entry["step"] - last_step, settings, metrics)
            elif last_step is None:
                metrics.set("animatediff_train_checkpoint_timestamp_seconds", time.time())
            else:
                metrics.count("animatediff_train_restarts_total")
            last_step = entry["step"]
            metrics.progress(last_step, settings.num_steps)
        yield entry


def _export_step_metrics(
    entry: dict[str, Any], num_steps: float, settings: TrainingLoopConfig, metrics: JobMetrics
) -> None:
    metrics.count("animatediff_train_steps_total", num_steps)
    metrics.count("animatediff_train_clips_total", num_steps * settings.batch_size)
    metrics.set("animatediff_train_peak_memory_bytes", entry["peak_memory_gb"] * 1e9)
    for name, gauge in _GAUGES.items():
        metrics.set(gauge, entry[name])
