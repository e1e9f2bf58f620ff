"""Latent shards to a motion module. Run the same command again to continue; raise train.num_steps to go on longer."""

import logging

from animatediff.config import dump
from pipelines.embedded import train_default
from pipelines.runtime import connect, run_job
from pipelines.settings import TrainConfig
from pipelines.stages.train import Workers
from pipelines.stages.train_run import TrainJob, TrainRun, prepare
from pipelines.stages.train_watch import publish_sample, watch
from pipelines.tracking import Tracker, flatten, tracking_uri

logger = logging.getLogger(__name__)


def main(config: TrainConfig) -> TrainRun:
    """Train a motion module.

    Raises:
        UserError: the dataset or the base cannot be read, they do not fit, or the folder holds another run.
    """
    logger.info("train: %s on %s -> %s", config.dataset_uri, config.base, config.output_uri)
    job = prepare(config)
    if job.run.num_steps >= config.train.num_steps:
        logger.info("nothing to do: the run has done %d steps; raise train.num_steps to go on", job.run.num_steps)
        return job.run
    connect()
    workers = Workers.plan(config.scaling, batch_size=config.train.batch_size)
    with _open_tracker(config, job) as tracker:
        run = watch(config, job, workers, tracker)
        publish_sample(config, job, workers, tracker)
    run.write(config.output_uri)
    logger.info("motion module %s; MLflow run %s at %s", job.motion_module, run.mlflow_run_id, tracking_uri())
    return run


def _open_tracker(config: TrainConfig, job: TrainJob) -> Tracker:
    tracker = Tracker(
        config.run_name,
        run_id=job.run.mlflow_run_id,
        params=flatten(config.model_dump(mode="json")),
        tags={
            "dataset_key": job.manifest.dataset_key,
            "dataset_digest": job.manifest.digest(),
            "output_uri": config.output_uri,
        },
    )
    tracker.log_file("config.yaml", dump(config).encode())
    return tracker


if __name__ == "__main__":
    run_job(main, TrainConfig, embedded=train_default)
