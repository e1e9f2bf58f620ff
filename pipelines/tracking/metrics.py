"""What the jobs tell Prometheus: one table of all metrics, and their export by Ray while a job is at work.

Only drivers export. A run then has one series a metric, however many workers it has and however often these are
renewed, and what is counted is what was committed. A scrape that nobody makes costs the job nothing: Prometheus asks
the exporter of Ray's node, and a driver only hands it numbers.
"""

import itertools
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from ray.util.metrics import Counter, Gauge

from animatediff import storage
from animatediff.data.quarantine import Reason
from animatediff.uris import printable_uri
from pipelines.terminal import interrupts

JobName = Literal["curate", "ingest", "train", "animate", "score"]

_REASONS = tuple(str(reason) for reason in Reason)
# Ray exports what a gauge was set to once, and forgets it after two of its report intervals of 10 s.
_REPEAT_S = 5.0
# Ray's counters take no 0. Added to a count this is lost in rounding, and a count that begins before its first event
# has that event in Prometheus' `increase`.
_ZERO = sys.float_info.min


@dataclass(frozen=True)
class Metric:
    """One metric of the jobs."""

    name: str
    """As it is given to Ray, by Prometheus' conventions."""
    kind: Literal["counter", "gauge"]
    unit: str
    meaning: str
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Its own labels with all values that they can have; every metric has `run` and `job_name` as well."""

    @property
    def exported_name(self) -> str:
        """The name in Prometheus: Ray puts its own before it."""
        return f"ray_{self.name}"

    @property
    def labels(self) -> tuple[str, ...]:
        """All that a series is labelled with: `run` is the output folder, which one job at a time writes to."""
        return ("job_name", "run", *self.tags)

    def is_of(self, job: JobName) -> bool:
        """Whether a job exports it."""
        return self.name.startswith(("animatediff_job_", "animatediff_mlflow_", f"animatediff_{job}_"))


METRICS = (
    # All jobs.
    Metric(
        "animatediff_job_progress_timestamp_seconds",
        "gauge",
        "seconds since the epoch",
        "When the job began or last finished something. There is one as long as the job is at work.",
    ),
    Metric(
        "animatediff_job_progress_ratio",
        "gauge",
        "share",
        "How much is done of what the job does now, from 0 to 1: ingest encodes all videos, and then seals shards.",
    ),
    Metric(
        "animatediff_job_ends_total",
        "counter",
        "jobs",
        "Jobs that ended by themselves: done, failed, or stopped by a signal. Rendering with failed items is done.",
        {"outcome": ("done", "failed", "stopped")},
    ),
    Metric("animatediff_mlflow_up", "gauge", "1 or 0", "Whether MLflow answered when the job last asked it."),
    # Curate.
    Metric("animatediff_curate_videos_total", "counter", "videos", "Videos that are scanned, whatever became of them."),
    Metric("animatediff_curate_video_seconds_total", "counter", "seconds", "Length of the videos that are scanned."),
    Metric("animatediff_curate_shots_total", "counter", "shots", "Shots found."),
    Metric(
        "animatediff_curate_quarantined_videos_total",
        "counter",
        "videos",
        "Videos that the workers set aside. Those that the plan leaves out before are told in its log.",
        {"reason": _REASONS},
    ),
    Metric(
        "animatediff_curate_quarantine_limit_ratio",
        "gauge",
        "share",
        "The share of the videos beyond which the job fails at its end: max_quarantine_rate of its config.",
    ),
    Metric(
        "animatediff_curate_captions_total",
        "counter",
        "shots",
        "Shots that were asked for, by whether the answer can be used.",
        {"outcome": ("ok", "refused")},
    ),
    Metric("animatediff_curate_caption_tokens_total", "counter", "tokens", "Tokens of questions and answers."),
    Metric(
        "animatediff_curate_stage_seconds_total",
        "counter",
        "seconds",
        "Seconds that workers took for what is committed.",
        {"stage": ("scan", "caption")},
    ),
    # Ingest.
    Metric("animatediff_ingest_videos_total", "counter", "videos", "Videos that are done, whatever became of them."),
    Metric("animatediff_ingest_clips_total", "counter", "clips", "Clips committed."),
    Metric(
        "animatediff_ingest_quarantined_videos_total",
        "counter",
        "videos",
        "Videos that the workers set aside. Those that the plan leaves out before are told in its log.",
        {"reason": _REASONS},
    ),
    Metric(
        "animatediff_ingest_quarantine_limit_ratio",
        "gauge",
        "share",
        "The share of the videos beyond which the job fails at its end: max_quarantine_rate of its config.",
    ),
    Metric(
        "animatediff_ingest_stage_seconds_total",
        "counter",
        "seconds",
        "Seconds that workers took for committed units.",
        {"stage": ("decode", "score", "encode")},
    ),
    # Train.
    Metric("animatediff_train_steps_total", "counter", "steps", "Steps done, those that are done again included."),
    Metric("animatediff_train_clips_total", "counter", "clips", "Clips trained on, by all workers."),
    Metric("animatediff_train_step", "gauge", "steps", "The step that the run has reached."),
    Metric("animatediff_train_loss", "gauge", "1", "Mean loss since the last log entry (train.log_every)."),
    Metric("animatediff_train_validation_loss", "gauge", "1", "Loss on the held-out clips."),
    Metric(
        "animatediff_train_skipped_steps_total",
        "counter",
        "steps",
        "Steps that were skipped: not_finite names clips in skipped.jsonl, loss_scale is half precision's own search.",
        {"reason": ("not_finite", "loss_scale")},
    ),
    Metric(
        "animatediff_train_data_wait_seconds_total",
        "counter",
        "seconds",
        "Seconds that the first worker has waited for clips. Their rate is the share of the time, which a gauge of the "
        "last log entry is not: it shows a quick one for as long as the next, slow one takes.",
    ),
    Metric("animatediff_train_peak_memory_bytes", "gauge", "bytes", "The most memory that the first worker has taken."),
    Metric(
        "animatediff_train_checkpoint_timestamp_seconds",
        "gauge",
        "seconds since the epoch",
        "When the last checkpoint was whole on its storage, or the training began.",
    ),
    Metric(
        "animatediff_train_restarts_total",
        "counter",
        "starts",
        "New starts of workers: failed, or taken back.",
    ),
    # Animate.
    Metric(
        "animatediff_animate_items_total",
        "counter",
        "items",
        "Items by what became of them; the invalid ones are known before the first is rendered.",
        {"status": ("ok", "failed", "invalid")},
    ),
    Metric(
        "animatediff_animate_stage_seconds_total",
        "counter",
        "seconds",
        "Seconds that workers took for rendered items.",
        {"stage": ("load", "text", "compile", "unet", "vae", "encode", "write")},
    ),
    Metric("animatediff_animate_model_swaps_total", "counter", "models", "Times that a worker put in another model."),
    # Score.
    Metric(
        "animatediff_score_clips_total",
        "counter",
        "clips",
        "Clips by what became of them.",
        {"status": ("ok", "failed")},
    ),
)
"""All that the jobs export, beside Ray's own metrics."""


class JobMetrics:
    """The metrics of a job at work that is connected to Ray; a context manager.

    Gauges are there as long as the context, and 20 s more: what has ended has none, nor has what was killed or hangs
    as a whole. Counters stay until Ray's node ends.

    Args:
        job: which job it is.
        output_uri: its output folder.
    """

    def __init__(self, job: JobName, output_uri: str) -> None:
        self._labels = {"job_name": job, "run": printable_uri(storage.absolute(output_uri))}
        self._of_job = [metric for metric in METRICS if metric.is_of(job)]
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._values: dict[str, float] = {}
        self._ended = threading.Event()
        self._repeater = threading.Thread(target=self._repeat, daemon=True, name="metrics")

    def __enter__(self) -> Self:
        for metric in self._of_job:
            own = (Counter if metric.kind == "counter" else Gauge)(metric.name, metric.meaning, metric.labels)
            own.set_default_tags(self._labels)
            if isinstance(own, Counter):
                self._counters[metric.name] = own
                for values in itertools.product(*metric.tags.values()):
                    own.inc(_ZERO, dict(zip(metric.tags, values, strict=True)))
            else:
                self._gauges[metric.name] = own
        self.progress(0, 0)
        self._repeater.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._repeater.join()
        # What a signal breaks off fails in many ways; a job that another thread ends is interrupted without one.
        outcome = "done" if kind is None else "stopped" if interrupts.signal_came() else "failed"
        self.count("animatediff_job_ends_total", outcome=outcome)

    def count(self, name: str, number: float = 1, **tags: str) -> None:
        """Add to a counter; nothing is added for 0."""
        if number > 0:
            self._counters[name].inc(number, tags)

    def set(self, name: str, value: float) -> None:
        """Set a gauge, which has this value until it is set again or the job ends."""
        self._values[name] = float(value)
        self._gauges[name].set(float(value))

    def forget(self, name: str) -> None:
        """Let a gauge end, whose value nobody finds out any more."""
        self._values.pop(name, None)

    def progress(self, done: float, total: float) -> None:
        """Tell that something was finished just now, `done` of `total` in all."""
        self.set("animatediff_job_progress_timestamp_seconds", time.time())
        self.set("animatediff_job_progress_ratio", done / total if total else 0.0)

    def _repeat(self) -> None:
        while not self._ended.wait(_REPEAT_S):
            for name, value in list(self._values.items()):
                self._gauges[name].set(value)
