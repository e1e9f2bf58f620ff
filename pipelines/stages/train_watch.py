"""The driver's side of training: progress on the terminal, metrics and files to MLflow, the run's state on disk."""

import logging
from collections import deque

from animatediff import storage
from pipelines.progress import Progress
from pipelines.runtime import find_user_error
from pipelines.settings import TrainConfig
from pipelines.stages.sample import render_sample
from pipelines.stages.train import Workers, train
from pipelines.stages.train_run import TrainJob, TrainRun
from pipelines.tracking import Tracker

logger = logging.getLogger(__name__)

# Entries that the shown loss is averaged over: single batches of random timesteps scatter widely.
_WINDOW = 10


def watch(config: TrainConfig, job: TrainJob, workers: Workers, tracker: Tracker) -> TrainRun:
    """Train, showing and tracking the metrics.

    Returns:
        The run's new state, not yet written.

    Raises:
        UserError: what a worker raised.
    """
    run = job.run.model_copy(update={"mlflow_run_id": tracker.run_id or job.run.mlflow_run_id})
    run.write(config.output_uri)
    losses: deque[float] = deque(maxlen=_WINDOW)
    entries = train(config, job.recipe, workers)
    done = next(entries)["step"]
    if done:
        logger.info("continuing after step %d", done)
    with Progress("train", total=config.train.num_steps - int(done), unit="step") as progress:
        for entry in entries:
            if "loss" not in entry:
                logger.warning("the workers failed and started again after step %d", entry["step"])
                continue
            losses.append(entry["loss"])
            if run.first_loss is None:
                run = run.model_copy(update={"first_loss": entry["loss"]})
                run.write(config.output_uri)
            shown = {"loss": f"{sum(losses) / len(losses):.4f}", "clips/s": f"{entry['clips_per_s']:.1f}"}
            # After a new start the steps since the checkpoint come again.
            progress.update(max(0, int(entry["step"] - done)), **shown)
            done = max(done, entry["step"])
            tracker.log_metrics(int(entry["step"]), {k: v for k, v in entry.items() if k != "step"})
    if losses:
        run = run.model_copy(update={"loss": sum(losses) / len(losses)})
        logger.info("loss %.4f after %d steps, %.4f at first", run.loss, config.train.num_steps, run.first_loss)
    return run.model_copy(update={"num_steps": config.train.num_steps})


def publish_sample(config: TrainConfig, job: TrainJob, workers: Workers, tracker: Tracker) -> None:
    """Render the sample into the run's folder and to MLflow; a failure costs a warning, not the training."""
    try:
        files = render_sample(config.sample, job.recipe, job.manifest, job.motion_module, workers)
    except Exception as error:
        logger.warning("no sample clip: %s", find_user_error(error) or error)
        return
    for name, content in files.items():
        storage.write_bytes(storage.join(config.output_uri, name), content)
        tracker.log_file(name, content)
