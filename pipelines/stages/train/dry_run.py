"""A dry run of the train job: what it would train, on how much, and how long that takes. Nothing is written."""

import tempfile

from pipelines.settings import TrainJobConfig
from pipelines.stages.train.run import TrainJob, check_job
from pipelines.terminal.hours import cost, duration

_HALF, _FULL = 2, 4  # bytes of a number
_TRAINED = 4  # the weight, its gradient, and AdamW's two moments


def estimate(config: TrainJobConfig) -> list[str]:
    """Return what a run would do, in lines for a log.

    Raises:
        UserError: it could not be started, as `check_job` says.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = check_job(config, folder)
        frozen, trained = job.recipe.count_parameters()
    left = max(0, config.train.num_steps - job.run.num_steps)
    return [_data(config, job), _steps(config, job, left), _memory(config, frozen, trained), _time(config, left)]


def _data(config: TrainJobConfig, job: TrainJob) -> str:
    clips, shapes = job.num_clips, sorted({shard.bucket for shard in job.manifest.shards})
    chosen = f" that fulfil {config.where!r}" if config.where else ""
    held_out = f"; the loss is validated on {job.num_held_out:,} held-out ones" if job.num_held_out else ""
    few = f" (fewer than a step's {config.train.batch_size}: they repeat)" if clips < config.train.batch_size else ""
    return f"to train on: {clips:,} of {job.manifest.num_clips:,} clips{chosen}, {', '.join(shapes)}{few}{held_out}"


def _steps(config: TrainJobConfig, job: TrainJob, left: int) -> str:
    train = config.train
    share = 1 - config.mix.share if config.mix.dataset_uri is not None else 1.0
    epoch = max(1.0, job.num_clips / train.batch_size / share)
    return (
        f"steps: {left:,} to do, {job.run.num_steps:,} are done; one of {train.batch_size} clips, an epoch has "
        f"{epoch:,.0f}, all are {train.num_steps / epoch:.3g} epochs"
    )


def _memory(config: TrainJobConfig, frozen: int, trained: int) -> str:
    state = trained * _FULL * (_TRAINED + (config.train.ema_decay > 0))
    half, full = (f"{(frozen * width + state) / 1e9:.3g} GB" for width in (_HALF, _FULL))
    return (
        f"weights: {frozen / 1e6:,.1f} million parameters stay frozen and {trained / 1e6:,.1f} million are trained; "
        f"with gradients and optimizer {half} a worker in half precision, {full} in float32, and activations on top"
    )


def _time(config: TrainJobConfig, left: int) -> str:
    rate = config.rate
    if rate.seconds_per_step is None:
        return "time: unknown, as rate.seconds_per_step is not given"
    hours = left * rate.seconds_per_step / 3600
    return f"time: {duration(hours)} on {rate.num_workers} workers{cost(hours, rate.num_workers, rate.usd_per_hour)}"
