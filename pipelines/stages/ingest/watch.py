"""The driver's side of encoding: progress on the terminal, and the same numbers to MLflow."""

import hashlib
import logging
import posixpath
import time
from collections import Counter
from collections.abc import Mapping

import pyarrow.compute as pc
from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config
from animatediff.data import quarantine
from animatediff.data.ingest import parts
from animatediff.data.ingest.seal import read_quarantine
from pipelines.cluster.runtime import num_cpus, num_gpus
from pipelines.cluster.starting import starting
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.plan import IngestJob
from pipelines.stages.ingest.worker import CPUS_PER_ACTOR, Decode, Encode, EncodeSpec, UnitResult, encode_units
from pipelines.terminal.failures import told_in_one_line
from pipelines.terminal.progress import Progress
from pipelines.tracking.run_context import DataInput, device, flatten
from pipelines.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

_STATE = "ingest.json"
_TRACKED_EVERY_S = 10.0
_KEPT = "what is encoded is kept, and the same command goes on"
_LOWER = "num_encoders, num_decoders, clips_per_unit or decode.max_mb"


class State(Config):
    """What a later job needs to go on in the same MLflow run."""

    mlflow_run_id: str | None = None
    decode_s: float = 0.0
    """Seconds of all jobs so far."""
    encode_s: float = 0.0


def encode(config: IngestConfig, job: IngestJob, *, use_gpu: bool) -> None:
    """Encode the pending units.

    Raises:
        UserError: what a worker raised; what is committed stays.
    """
    num_done = len(job.units) - len(job.pending)
    if num_done:
        logger.info("continuing: %d of %d units are encoded already", num_done, len(job.units))
    if not job.pending:
        return
    spec = EncodeSpec(
        output_uri=job.output_uri,
        base=job.base,
        dtype=job.dtype,
        encoder_fp=job.identity.encoder_fp,
        clips=config.clips,
        decode=config.decode,
        scorers=config.scorers,
        device="cuda" if use_gpu else "cpu",
        trusted=config.source.trusted,
        quarantine_unreachable=config.quarantine_unreachable,
    )
    num_decoders = min(config.num_decoders or max(1, num_cpus() // 2), len(job.pending))
    num_encoders = min(config.num_encoders or max(1, num_gpus() if use_gpu else num_cpus()), len(job.pending))
    results = encode_units(job.pending, spec, num_decoders=num_decoders, num_encoders=num_encoders)
    needs = {"CPU": CPUS_PER_ACTOR} | ({"GPU": 1} if use_gpu else {})
    classes = (Decode.__name__, Encode.__name__)
    total = sum(unit.num_videos for unit in job.pending)
    state = _read_state(job.output_uri)
    board = Board.at_start(config, job, state)
    with (
        _tracker(config, job, state, use_gpu=use_gpu) as tracker,
        Progress("encode", total=total, unit="video") as progress,
    ):
        _keep(job.output_uri, tracker, board)
        try:
            with (
                told_in_one_line(kept=_KEPT, lower=_LOWER),
                starting("ingest worker", num_decoders + num_encoders, needs, classes=classes, lower=_LOWER) as arrived,
            ):
                for result in results:
                    arrived()
                    board.add(result)
                    progress.update(result.num_videos, clips=board.num_clips, quarantined=board.num_quarantined)
                    board.track(tracker)
        finally:
            board.track(tracker, is_last=True)
    _keep(job.output_uri, tracker, board)


class Board:
    """Sums over all committed units of the dataset, whichever job encoded them.

    Args:
        num_units: committed before.
        num_clips: theirs.
        reasons: why videos were put aside so far.
        state: seconds of earlier jobs.
    """

    def __init__(self, num_units: int, num_clips: int, reasons: Mapping[str, int], state: State) -> None:
        self._num_units, self._began = num_units, time.monotonic()
        self._last = self._began
        self._reasons = Counter(reasons)
        self.decode_s, self.encode_s = state.decode_s, state.encode_s
        self.num_clips = self._num_before = num_clips

    @classmethod
    def at_start(cls, config: IngestConfig, job: IngestJob, state: State) -> "Board":
        """Return what is in shards and in committed parts. Videos that are tried again count when they are done."""
        pending = {unit.unit_id for unit in job.pending}
        summaries = parts.read_summaries(
            job.output_uri, [unit.unit_id for unit in job.unsealed if unit.unit_id not in pending]
        )
        reasons = Counter(quarantine.count_reasons(job.rejected))
        num_clips = sum(sum(summary.num_clips.values()) for summary in summaries)
        for summary in summaries:
            reasons.update(str(rejection.reason) for rejection in summary.rejections)
        if job.sealed is not None:
            num_clips += job.sealed.num_clips
            rows = read_quarantine(job.output_uri)
            of_units = quarantine.count_reasons(rows.filter(pc.not_equal(rows["unit_id"], "")))
            again = {str(reason) for reason in config.retry_quarantined}
            reasons.update({reason: 0 if reason in again else number for reason, number in of_units.items()})
        return cls(len(job.units) - len(job.pending), num_clips, reasons, state)

    @property
    def num_quarantined(self) -> int:
        """Videos that were put aside."""
        return sum(self._reasons.values())

    def add(self, result: UnitResult) -> None:
        """Count a unit that was committed now."""
        self._num_units += 1
        self.num_clips += result.num_clips
        self._reasons.update(result.reasons)
        self.decode_s += result.decode_s
        self.encode_s += result.encode_s

    def track(self, tracker: Tracker, *, is_last: bool = False) -> None:
        """Log to MLflow every few seconds; the step is the number of the plan's units that are committed."""
        now = time.monotonic()
        if now - self._last < _TRACKED_EVERY_S and not is_last:
            return
        self._last = now
        metrics = {
            "clips": float(self.num_clips),
            "clips_per_s": (self.num_clips - self._num_before) / max(now - self._began, 1e-9),
            "decode_s": self.decode_s,
            "encode_s": self.encode_s,
            "quarantined": float(self.num_quarantined),
        }
        reasons = {f"quarantined_{reason}": float(number) for reason, number in self._reasons.items()}
        tracker.log_metrics(self._num_units, metrics | reasons)


def _tracker(config: IngestConfig, job: IngestJob, state: State, *, use_gpu: bool) -> Tracker:
    """Return the dataset's MLflow run, one over all restarts."""
    return Tracker(
        f"ingest-{posixpath.basename(job.output_uri.rstrip('/'))}",
        run_id=state.mlflow_run_id,
        params=flatten(config.model_dump(mode="json")),
        tags={
            "job": "ingest",
            "dataset_uri": job.output_uri,
            "dataset_key": job.identity.dataset_key,
            "device": device(use_gpu=use_gpu),
        },
        inputs=[_input(config, job)],
    )


def _input(config: IngestConfig, job: IngestJob) -> DataInput:
    """Return the source, as far as it is planned."""
    units = "\n".join(unit.unit_id for unit in job.units)
    counts = {"videos": sum(unit.num_videos for unit in job.units), "set_aside": len(job.rejected)}
    return DataInput(config.source.uri, hashlib.sha256(units.encode()).hexdigest(), counts, context="ingest")


def _read_state(output_uri: str) -> State:
    try:
        return State.model_validate_json(storage.read_bytes(storage.join(output_uri, _STATE)))
    except (FileNotFoundError, ValidationError):
        return State()


def _keep(output_uri: str, tracker: Tracker, board: Board) -> None:
    """Let the next job find the MLflow run, which may have begun later than this one where the server was away."""
    if tracker.run_id:
        state = State(mlflow_run_id=tracker.run_id, decode_s=board.decode_s, encode_s=board.encode_s)
        storage.write_bytes(storage.join(output_uri, _STATE), state.model_dump_json().encode() + b"\n")
