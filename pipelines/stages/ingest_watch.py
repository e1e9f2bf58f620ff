"""The driver's side of encoding: progress on the terminal, and the same numbers to MLflow."""

import logging
import posixpath
import time
from collections import Counter

from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config
from pipelines.failures import told_in_one_line
from pipelines.progress import Progress
from pipelines.runtime import num_cpus, num_gpus
from pipelines.settings import IngestConfig
from pipelines.stages.encode import CPUS_PER_ACTOR, Decode, Encode, EncodeSpec, UnitResult, encode_units
from pipelines.stages.plan import IngestJob, without_secrets
from pipelines.stages.starting import starting
from pipelines.tracking import Tracker, flatten

logger = logging.getLogger(__name__)

_STATE = "ingest.json"
_TRACKED_EVERY_S = 10.0
_KEPT = "what is encoded is kept, and the same command goes on"
_LOWER = "num_encoders, num_decoders, clips_per_unit or decode.max_mb"


class _State(Config):
    """What a later job needs to go on in the same MLflow run."""

    mlflow_run_id: str | None = None


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
    )
    num_decoders = min(config.num_decoders or max(1, num_cpus() // 2), len(job.pending))
    num_encoders = min(config.num_encoders or max(1, num_gpus() if use_gpu else num_cpus()), len(job.pending))
    results = encode_units(job.pending, spec, num_decoders=num_decoders, num_encoders=num_encoders)
    needs = {"CPU": CPUS_PER_ACTOR} | ({"GPU": 1} if use_gpu else {})
    classes = (Decode.__name__, Encode.__name__)
    total = sum(unit.num_videos for unit in job.pending)
    with _tracker(config, job) as tracker, Progress("encode", total=total, unit="video") as progress:
        board = _Board(num_done)
        _keep_run_id(job.output_uri, tracker)
        with (
            told_in_one_line(kept=_KEPT, lower=_LOWER),
            starting("ingest worker", num_decoders + num_encoders, needs, classes=classes) as arrived,
        ):
            for result in results:
                arrived()
                board.add(result)
                progress.update(result.num_videos, clips=board.num_clips, quarantined=board.num_quarantined)
                board.track(tracker)
        board.track(tracker, is_last=True)
    _keep_run_id(job.output_uri, tracker)


class _Board:
    """Sums over the committed units."""

    def __init__(self, num_done: int) -> None:
        self._num_units, self._began = num_done, time.monotonic()
        self._last = self._began
        self._reasons: Counter[str] = Counter()
        self._decode_s = self._encode_s = 0.0
        self.num_clips = 0

    @property
    def num_quarantined(self) -> int:
        return sum(self._reasons.values())

    def add(self, result: UnitResult) -> None:
        self._num_units += 1
        self.num_clips += result.num_clips
        self._reasons.update(result.reasons)
        self._decode_s += result.decode_s
        self._encode_s += result.encode_s

    def track(self, tracker: Tracker, *, is_last: bool = False) -> None:
        """Log to MLflow every few seconds; the step is the number of the plan's units that are committed."""
        now = time.monotonic()
        if now - self._last < _TRACKED_EVERY_S and not is_last:
            return
        self._last = now
        metrics = {
            "clips": float(self.num_clips),
            "clips_per_s": self.num_clips / (now - self._began),
            "decode_s": self._decode_s,
            "encode_s": self._encode_s,
            "quarantined": float(self.num_quarantined),
        }
        reasons = {f"quarantined_{reason}": float(number) for reason, number in self._reasons.items()}
        tracker.log_metrics(self._num_units, metrics | reasons)


def _tracker(config: IngestConfig, job: IngestJob) -> Tracker:
    """The dataset's MLflow run, one over all restarts."""
    return Tracker(
        f"ingest-{posixpath.basename(job.output_uri.rstrip('/'))}",
        run_id=_known_run_id(job.output_uri),
        params=flatten(without_secrets(config).model_dump(mode="json")),
        tags={"job": "ingest", "dataset_uri": job.output_uri, "dataset_key": job.identity.dataset_key},
    )


def _known_run_id(output_uri: str) -> str | None:
    try:
        return _State.model_validate_json(storage.read_bytes(storage.join(output_uri, _STATE))).mlflow_run_id
    except (FileNotFoundError, ValidationError):
        return None


def _keep_run_id(output_uri: str, tracker: Tracker) -> None:
    """Let the next job find the MLflow run, which may have begun later than this one where the server was away."""
    if tracker.run_id and tracker.run_id != _known_run_id(output_uri):
        content = _State(mlflow_run_id=tracker.run_id).model_dump_json().encode() + b"\n"
        storage.write_bytes(storage.join(output_uri, _STATE), content)
