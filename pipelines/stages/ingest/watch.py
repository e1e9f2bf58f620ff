"""What the ingest job's driver tells MLflow and Prometheus of units that are done. MLflow has one run of all jobs."""

import hashlib
import posixpath
import time
from collections import Counter
from collections.abc import Mapping

import pyarrow.compute as pc
from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config
from animatediff.data import quarantine_table
from animatediff.data.ingest import parts
from animatediff.data.ingest.seal import read_quarantine
from pipelines.outputs.file_names import INGEST_STATE_FILE
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.plan import IngestJob
from pipelines.stages.ingest.stage import UnitResult
from pipelines.tracking.metrics import JobMetrics
from pipelines.tracking.run_context import DataInput, device, flatten
from pipelines.tracking.tracker import Tracker

_TRACKED_EVERY_S = 10.0


class IngestState(Config):
    """What a later job needs to go on in the same MLflow run."""

    mlflow_run_id: str | None = None
    decode_s: float = 0.0
    """Seconds of all jobs so far."""
    score_s: float = 0.0
    """Seconds of all jobs so far."""
    encode_s: float = 0.0
    """Seconds of all jobs so far."""

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds by stage; `score` only where there has been such a stage."""
        score = {"score": self.score_s} if self.score_s else {}
        return {"decode": self.decode_s, "encode": self.encode_s} | score


class Totals:
    """Sums over all committed units of the dataset, whichever job encoded them.

    Args:
        num_units: committed before.
        num_clips: of the committed units.
        reasons: why videos were put aside so far.
        state: seconds of earlier jobs.
    """

    def __init__(self, num_units: int, num_clips: int, reasons: Mapping[str, int], state: IngestState) -> None:
        self._num_units, self._began = num_units, time.monotonic()
        self._last = self._began
        self._reasons = Counter(reasons)
        self._seconds = Counter(state.seconds)
        self.num_clips = self._num_before = num_clips

    @classmethod
    def at_start(cls, config: IngestConfig, job: IngestJob, state: IngestState) -> "Totals":
        """Return what is in shards and in committed parts. Videos that are tried again count when they are done."""
        pending = {unit.unit_id for unit in job.pending_units}
        summaries = parts.read_summaries(
            job.output_uri, [unit.unit_id for unit in job.unsealed_units if unit.unit_id not in pending]
        )
        reasons = Counter(quarantine_table.count_reasons(job.rejected_in_planning))
        num_clips = sum(sum(summary.num_clips.values()) for summary in summaries)
        for summary in summaries:
            reasons.update(str(rejection.reason) for rejection in summary.rejections)
        if job.sealed_manifest is not None:
            num_clips += job.sealed_manifest.num_clips
            rows = read_quarantine(job.output_uri)
            of_units = quarantine_table.count_reasons(rows.filter(pc.not_equal(rows["unit_id"], "")))
            retried_reasons = {str(reason) for reason in config.retry_quarantined}
            reasons.update({reason: 0 if reason in retried_reasons else number for reason, number in of_units.items()})
        return cls(len(job.units) - len(job.pending_units), num_clips, reasons, state)

    @property
    def num_quarantined(self) -> int:
        """Videos that were put aside."""
        return sum(self._reasons.values())

    def state(self, run_id: str) -> IngestState:
        """Return what a later job goes on from."""
        return IngestState(mlflow_run_id=run_id, **{f"{stage}_s": seconds for stage, seconds in self._seconds.items()})

    def add(self, result: UnitResult) -> None:
        """Count a unit that was committed now."""
        self._num_units += 1
        self.num_clips += result.num_clips
        self._reasons.update(result.reasons)
        self._seconds.update(result.seconds)

    def track(self, tracker: Tracker, *, is_last: bool = False) -> None:
        """Log to MLflow every few seconds; the step is the number of the plan's units that are committed."""
        now = time.monotonic()
        if now - self._last < _TRACKED_EVERY_S and not is_last:
            return
        self._last = now
        metrics = {
            "clips": float(self.num_clips),
            "clips_per_s": (self.num_clips - self._num_before) / max(now - self._began, 1e-9),
            "quarantined": float(self.num_quarantined),
        }
        metrics |= {f"{stage}_s": seconds for stage, seconds in self._seconds.items()}
        reasons = {f"quarantined_{reason}": float(number) for reason, number in self._reasons.items()}
        tracker.log_metrics(self._num_units, metrics | reasons)


def count_for_prometheus(result: UnitResult, metrics: JobMetrics) -> None:
    """Count a unit that was committed now, for Prometheus."""
    metrics.count("animatediff_ingest_videos_total", result.num_videos)
    metrics.count("animatediff_ingest_clips_total", result.num_clips)
    for reason, number in result.reasons.items():
        metrics.count("animatediff_ingest_quarantined_videos_total", number, reason=reason)
    for stage, seconds in result.seconds.items():
        metrics.count("animatediff_ingest_stage_seconds_total", seconds, stage=stage)


def start_tracker(config: IngestConfig, job: IngestJob, state: IngestState, *, use_gpu: bool) -> Tracker:
    """Return the dataset's MLflow run, one over all restarts."""
    return Tracker(
        f"ingest-{posixpath.basename(job.output_uri.rstrip('/'))}",
        run_id=state.mlflow_run_id,
        params=flatten(config.model_dump(mode="json")),
        tags={
            "job": "ingest",
            "dataset_uri": job.output_uri,
            "dataset_key": job.latent_encoding.dataset_key,
            "device": device(use_gpu=use_gpu),
        },
        inputs=[_mlflow_input(config, job)],
    )


def _mlflow_input(config: IngestConfig, job: IngestJob) -> DataInput:
    """Return the source, as far as it is planned."""
    units = "\n".join(unit.unit_id for unit in job.units)
    counts = {"videos": sum(unit.num_videos for unit in job.units), "set_aside": len(job.rejected_in_planning)}
    return DataInput(config.source.uri, hashlib.sha256(units.encode()).hexdigest(), counts, context="ingest")


def read_state(output_uri: str) -> IngestState:
    """Return what the jobs before have left; nothing where there were none, or it is damaged."""
    try:
        return IngestState.model_validate_json(storage.read_bytes(storage.join(output_uri, INGEST_STATE_FILE)))
    except (FileNotFoundError, ValidationError):
        return IngestState()


def write_state(output_uri: str, tracker: Tracker, totals: Totals) -> None:
    """Let the next job find the MLflow run, which may have begun later than this one where the server was away."""
    if tracker.run_id:
        state = totals.state(tracker.run_id)
        storage.write_bytes(storage.join(output_uri, INGEST_STATE_FILE), state.model_dump_json().encode() + b"\n")
