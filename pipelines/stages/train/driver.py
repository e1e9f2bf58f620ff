"""The train job on its driver: check, start or take up the run, watch the workers, register the result."""

import logging
from contextlib import closing
from dataclasses import replace

from animatediff.config import dump
from pipelines.cluster.runtime import connect
from pipelines.outputs.file_names import CONFIG_FILE
from pipelines.settings import TrainJobConfig
from pipelines.stages.train.dry_run import estimate
from pipelines.stages.train.launch import Workers, run_workers
from pipelines.stages.train.run import RunState, TrainJob, start_or_resume
from pipelines.stages.train.sample import Renderer
from pipelines.stages.train.watch import counted_for_prometheus, publish_sample, track
from pipelines.tracking.metrics import JobMetrics
from pipelines.tracking.run_context import device, flatten
from pipelines.tracking.tracker import Tracker, tracking_uri

logger = logging.getLogger(__name__)


def train(config: TrainJobConfig) -> RunState | None:
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
        return job.run if _is_registered(config, job.run) else _register_late(config, job)
    connect()
    workers = Workers.plan(config.scaling, batch_size=config.train.batch_size, validates=config.sample.every > 0)
    renderer = Renderer.plan(config.sample, job.recipe, job.manifest, on_gpu=workers.spare_gpu)
    device_tag = {"device": device(use_gpu=workers.use_gpu)}
    with JobMetrics("train", config.output_uri) as metrics, _open_tracker(config, job, device_tag) as tracker:
        with closing(run_workers(config, job.recipe, workers, renderer)) as entries:  # before the tracker's clean-up
            run = track(config, job, tracker, counted_for_prometheus(entries, config.train, tracker, metrics))
        publish_sample(config, job, workers, replace(renderer, on_gpu=workers.use_gpu), tracker)
        version = tracker.register(_model_name(config), job.weights_uri, tags=_tags(config, job))
    return _finish_run(config, job, run, tracker, version)


def _register_late(config: TrainJobConfig, job: TrainJob) -> RunState:
    """Register the weights of a finished run that MLflow was away from when it ended."""
    logger.info("the run's weights are not registered yet: registering them")
    with _open_tracker(config, job, {}) as tracker:
        version = tracker.register(_model_name(config), job.weights_uri, tags=_tags(config, job))
    return _finish_run(config, job, job.run, tracker, version)


def _finish_run(
    config: TrainJobConfig, job: TrainJob, run: RunState, tracker: Tracker, version: str | None
) -> RunState:
    """Write a finished run's state, and say where everything is."""
    registered = None if version is None else f"models:/{_model_name(config)}/{version}"
    # A server that was away may have got the run as late as now.
    run = run.model_copy(update={"mlflow_run_id": tracker.run_id or run.mlflow_run_id, "registered": registered})
    run.write(config.output_uri)
    logger.info("%s; MLflow run %s at %s", job.weights_uri, run.mlflow_run_id, tracking_uri())
    if registered is None:
        logger.warning("the weights are not registered: once MLflow takes them, the same command does it")
    else:
        logger.info("registered: %s", registered)
    return run


def _model_name(config: TrainJobConfig) -> str:
    # MLflow has no model names with these.
    return config.registered_model or config.run_name.replace("/", "-").replace(":", "-")


def _is_registered(config: TrainJobConfig, run: RunState) -> bool:
    """Whether it is under the name that the config says now."""
    return run.registered is not None and run.registered.startswith(f"models:/{_model_name(config)}/")


def _open_tracker(config: TrainJobConfig, job: TrainJob, more_tags: dict[str, str]) -> Tracker:
    tracker = Tracker(
        config.run_name,
        run_id=job.run.mlflow_run_id,
        params=flatten(
            config.model_copy(update={"schedule": job.recipe.resolved_config.schedule}).model_dump(mode="json")
        ),
        tags=_tags(config, job) | more_tags,
        inputs=job.inputs,
    )
    tracker.log_file(CONFIG_FILE, dump(config).encode())
    return tracker


def _tags(config: TrainJobConfig, job: TrainJob) -> dict[str, str]:
    return {
        "recipe": config.recipe,
        "dataset_key": job.manifest.dataset_key,
        "dataset_digest": job.run.dataset_digest,
        "output_uri": config.output_uri,
    }
