"""What the curate job's driver tells MLflow and Prometheus of what is done. MLflow has one run of all jobs."""

import hashlib
import posixpath
import time
from collections import Counter
from types import TracebackType
from typing import Self

from pydantic import Field, ValidationError

from animatediff import storage
from animatediff.config import Config
from animatediff.data.curation.manifest import ShotManifest
from pipelines.outputs.file_names import CURATE_STATE_FILE
from pipelines.settings import CurateConfig
from pipelines.stages.curate.plan import CurateJob
from pipelines.stages.curate.stage import CaptionBatchResult, ScanResult
from pipelines.tracking.metrics import JobMetrics
from pipelines.tracking.run_context import DataInput, device, flatten
from pipelines.tracking.tracker import Tracker

_TRACKED_EVERY_S = 10.0


class CurateState(Config):
    """What a later job needs to go on in the same MLflow run."""

    mlflow_run_id: str | None = None
    step: int = 0
    """Units and batches that all jobs so far have committed: the step of MLflow's metrics."""
    totals: dict[str, float] = Field(default_factory=dict)
    """Of all jobs so far, by the names of MLflow's metrics."""


class Watch:
    """Counts what is committed, and tells MLflow and Prometheus; a context manager around the work.

    Args:
        config: the job's.
        job: what there is to do.
        metrics: of the job, at work.
    """

    def __init__(self, config: CurateConfig, job: CurateJob, metrics: JobMetrics) -> None:
        self._output_uri, self._metrics = job.output_uri, metrics
        state = _read_state(job.output_uri)
        self._step, self._last = state.step, time.monotonic()
        self._totals = Counter(state.totals)
        self._tracker = _start_tracker(config, job, state.mlflow_run_id)

    @property
    def num_shots(self) -> int:
        """Shots that were found."""
        return int(self._totals["shots"])

    @property
    def hours(self) -> float:
        """Of video that was scanned."""
        return float(self._totals["hours"])

    @property
    def num_refused(self) -> int:
        """Shots whose answer cannot be used."""
        return int(self._totals["captions_refused"])

    def __enter__(self) -> Self:
        self._tracker.__enter__()
        self._write_state()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._track(is_last=True)
        self._metrics.forget("animatediff_mlflow_up")
        self._tracker.__exit__(kind, error, trace)
        self._write_state()

    def add_scan(self, result: ScanResult) -> None:
        """Count a unit that was scanned now."""
        quarantined = sum(result.reasons.values())
        new = {"videos": result.num_videos, "shots": result.num_shots, "hours": result.hours, "scan_s": result.seconds}
        self._add(new | {"quarantined": quarantined})
        self._metrics.count("animatediff_curate_videos_total", result.num_videos)
        self._metrics.count("animatediff_curate_shots_total", result.num_shots)
        self._metrics.count("animatediff_curate_video_seconds_total", 3600 * result.hours)
        self._metrics.count("animatediff_curate_stage_seconds_total", result.seconds, stage="scan")
        for reason, number in result.reasons.items():
            self._metrics.count("animatediff_curate_quarantined_videos_total", number, reason=reason)

    def add_captions(self, result: CaptionBatchResult) -> None:
        """Count a batch that was captioned now."""
        refused = sum(result.reasons.values())
        new = {"captions": result.num_captions, "captions_refused": refused, "caption_s": result.seconds}
        tokens = {"prompt_tokens": result.prompt_tokens, "answer_tokens": result.answer_tokens}
        self._add(new | tokens | {"caption_retries": result.num_retries})
        self._metrics.count("animatediff_curate_captions_total", result.num_captions, outcome="ok")
        self._metrics.count("animatediff_curate_captions_total", refused, outcome="refused")
        self._metrics.count("animatediff_curate_stage_seconds_total", result.seconds, stage="caption")
        self._metrics.count("animatediff_curate_caption_tokens_total", sum(tokens.values()))

    def progress(self, done: float, total: float) -> None:
        """Tell Prometheus how far the stage is."""
        self._metrics.progress(done, total)
        self._metrics.set("animatediff_mlflow_up", self._tracker.answers)

    def finish(self, manifest: ShotManifest) -> None:
        """Log what was sealed."""
        self._add({})
        reasons = {f"left_out_{reason}": float(number) for reason, number in manifest.reasons.items()}
        sealed = {"selected_shots": float(manifest.num_selected), "selected_hours": manifest.selected_s / 3600}
        self._tracker.log_metrics(self._step, sealed | reasons)

    def _add(self, numbers: dict[str, float]) -> None:
        self._step += 1
        self._totals.update(numbers)
        self._track()

    def _track(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if now - self._last < _TRACKED_EVERY_S and not is_last:
            return
        self._last = now
        self._tracker.log_metrics(self._step, {name: float(value) for name, value in self._totals.items()})
        self._write_state()

    def _write_state(self) -> None:
        """Let the next job find the MLflow run, which may have begun later than this one where the server was away."""
        if self._tracker.run_id:
            state = CurateState(mlflow_run_id=self._tracker.run_id, step=self._step, totals=dict(self._totals))
            content = state.model_dump_json().encode() + b"\n"
            storage.write_bytes(storage.join(self._output_uri, CURATE_STATE_FILE), content)


def _start_tracker(config: CurateConfig, job: CurateJob, run_id: str | None) -> Tracker:
    """Return the collection's MLflow run, one over all restarts."""
    units = "\n".join(unit.unit_id for unit in job.units)
    counts = {"videos": sum(unit.num_videos for unit in job.units), "set_aside": len(job.rejected_in_planning)}
    source = DataInput(config.source.uri, hashlib.sha256(units.encode()).hexdigest(), counts, context="curate")
    return Tracker(
        f"curate-{posixpath.basename(job.output_uri.rstrip('/'))}",
        run_id=run_id,
        params=flatten(config.model_dump(mode="json")),
        tags={
            "job": "curate",
            "dataset_uri": job.output_uri,
            "dataset_key": job.dataset_key,
            "device": device(use_gpu=False),
        },
        inputs=[source],
    )


def _read_state(output_uri: str) -> CurateState:
    try:
        return CurateState.model_validate_json(storage.read_bytes(storage.join(output_uri, CURATE_STATE_FILE)))
    except (FileNotFoundError, ValidationError):
        return CurateState()
