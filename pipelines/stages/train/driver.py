"""The train job on its driver: check, start or take up the run, watch the workers, register the result."""

import logging
from contextlib import closing
from dataclasses import replace

from animatediff.config import dump
from pipelines.cluster.runtime import connect
from pipelines.settings import TrainConfig
from pipelines.stages.train.dry_run import estimate
from pipelines.stages.train.launch import Workers, run_workers
from pipelines.stages.train.run import RunState, TrainJob, start_or_resume
from pipelines.stages.train.sample import Renderer
from pipelines.stages.train.watch import exported, publish_sample, track
from pipelines.tracking.metrics import JobMetrics
from pipelines.tracking.run_context import device, flatten
from pipelines.tracking.tracker import Tracker, tracking_uri

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> RunState | None:
    """Check, train and register the weights; return the run, or None after a dry run."""
    logger.info("train: %s on %s -> %s", config.dataset_uri, config.base, config.output_uri)
    if config.dry_run:
        for line in estimate(config):
            logger.info("%s", line)
        return None
    job = start_or_resume(config)
    logger.info("%d of %d clips are trained on", job.num_clips, job.manifest.num_clips)
    if job.run.num_steps >= config.train.num_steps:
        logger.info("nothing to do: the run has done %d steps; raise train.num_steps to go on", job.run.num_steps)
        return job.run
    connect()
    workers = Workers.plan(config.scaling, batch_size=config.train.batch_size, validates=config.sample.every > 0)
    renderer = Renderer.plan(config.sample, job.recipe, job.manifest, on_gpu=workers.spare_gpu)
    # MLflow has no model names with these.
    model_name = config.registered_model or config.run_name.replace("/", "-").replace(":", "-")
    with JobMetrics("train", config.output_uri) as metrics, _open_tracker(config, job, workers) as tracker:
        with closing(run_workers(config, job.recipe, workers, renderer)) as entries:  # before the tracker's clean-up
            run = track(config, job, tracker, exported(entries, config.train, tracker, metrics))
        publish_sample(config, job, workers, replace(renderer, on_gpu=workers.use_gpu), tracker)
        version = tracker.register(model_name, job.weights_uri, tags=_tags(config, job))
    # A server that was away may have got the run as late as now.
    run = run.model_copy(update={"mlflow_run_id": tracker.run_id or run.mlflow_run_id})
    run.write(config.output_uri)
    logger.info("%s; MLflow run %s at %s", job.weights_uri, run.mlflow_run_id, tracking_uri())
    if version is not None:
        logger.info("registered: models:/%s/%s", model_name, version)
    return run


def _open_tracker(config: TrainConfig, job: TrainJob, workers: Workers) -> Tracker:
    tracker = Tracker(
        config.run_name,
        run_id=job.run.mlflow_run_id,
        params=flatten(
            config.model_copy(update={"schedule": job.recipe.resolved_config.schedule}).model_dump(mode="json")
        ),
        tags=_tags(config, job) | {"device": device(use_gpu=workers.use_gpu)},
        inputs=job.inputs,
    )
    tracker.log_file("config.yaml", dump(config).encode())
    return tracker


def _tags(config: TrainConfig, job: TrainJob) -> dict[str, str]:
    return {
        "recipe": config.recipe,
        "dataset_key": job.manifest.dataset_key,
        "dataset_digest": job.run.dataset_digest,
        "output_uri": config.output_uri,
    }
