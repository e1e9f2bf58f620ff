"""What a training run exports for Prometheus: read off the entries that the workers leave for the driver."""

import time
from collections.abc import Iterator
from typing import Any

from ray.train import Checkpoint, UserCallback

from animatediff.training.settings import StepConfig
from pipelines.tracking.metrics import JobMetrics
from pipelines.tracking.tracker import Tracker

_GAUGES = {
    "step": "animatediff_train_step",
    "loss": "animatediff_train_loss",
    "data_wait": "animatediff_train_data_wait_ratio",
}


class TellOfCheckpoints(UserCallback):
    """Leaves an entry for each checkpoint that is whole on its storage; it runs in Ray Train's controller.

    Args:
        metrics_queue: handle of a `MetricsQueue`.
    """

    def __init__(self, metrics_queue: Any) -> None:
        self._metrics_queue = metrics_queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Tell of the checkpoint that has just been uploaded, if there is one."""
        if checkpoint is not None:
            self._metrics_queue.put.remote({"checkpoint": metrics[0]["step"]})


def exported(
    entries: Iterator[dict[str, Any]], settings: StepConfig, tracker: Tracker, metrics: JobMetrics
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
                _measured(entry, entry["step"] - last_step, settings, metrics)
            elif last_step is None:
                metrics.set("animatediff_train_checkpoint_timestamp_seconds", time.time())
            else:
                metrics.count("animatediff_train_restarts_total")
            last_step = entry["step"]
            metrics.progress(last_step, settings.num_steps)
        yield entry


def _measured(entry: dict[str, Any], num_steps: float, settings: StepConfig, metrics: JobMetrics) -> None:
    metrics.count("animatediff_train_steps_total", num_steps)
    metrics.count("animatediff_train_clips_total", num_steps * settings.batch_size)
    metrics.set("animatediff_train_peak_memory_bytes", entry["peak_memory_gb"] * 1e9)
    for name, gauge in _GAUGES.items():
        metrics.set(gauge, entry[name])
