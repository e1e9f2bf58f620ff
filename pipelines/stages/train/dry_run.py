"""A dry run of the train job: what it would train, on how much, and how long that takes. Nothing is written."""

import tempfile
from collections import Counter

from animatediff.data.loading.loader import latent_shapes
from animatediff.models.operations import A100_FLOPS
from animatediff.training.step_operations import clip_operations
from animatediff.weights.base import load_tokenizer
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
        operations = 0 if config.rate.seconds_per_step is not None else _operations_of_step(config, job)
    left = max(0, config.train.num_steps - job.run.num_steps)
    return [
        *(_data(config, job), _steps(config, job, left), _memory(config, frozen, trained)),
        _time(config, left, operations),
    ]


def _operations_of_step(config: TrainJobConfig, job: TrainJob) -> float:
    """Return the floating-point operations of a step's mean batch."""
    num_tokens = (load_tokenizer(config.base)[1] + 2) * config.text.chunks
    clips = Counter[str]()
    for shard in job.manifest.shards:
        clips[shard.bucket] += shard.num_clips
    shapes = latent_shapes(config.dataset_uri, job.manifest)
    total = sum(
        clips[bucket] * clip_operations(job.recipe, shape, num_tokens)
        for bucket, shape in zip(sorted(clips), shapes, strict=True)
    )
    return config.train.batch_size * total / clips.total()


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


def _time(config: TrainJobConfig, left: int, operations: float) -> str:
    rate, seconds = config.rate, config.rate.seconds_per_step
    reckoned = ""
    if seconds is None:
        flops = A100_FLOPS / 2 if config.compute.precision == "float32" else A100_FLOPS
        seconds = operations / (flops * rate.num_workers)
        reckoned = (
            f", reckoned with {operations / 1e12:,.3g} TFLOP a step and {flops / 1e12:g} TFLOP/s a worker, an A100's: "
            "rate.seconds_per_step says it better"
        )
    hours = left * seconds / 3600
    price = cost(hours, rate.num_workers, rate.usd_per_hour)
    return f"time: {duration(hours)} on {rate.num_workers} workers{price}{reckoned}"
