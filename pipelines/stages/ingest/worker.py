"""The workers of the ingest job: a unit of videos is decoded on CPUs, scored, encoded by the VAE, and committed.

Each of these is a `Stage`: actors of its own, between which Ray Data carries the units. Scorers of the user's own have
theirs, so that a slow one does not keep the VAE's device waiting; where none are named there is no such stage.
"""

import pickle
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from animatediff.data import columns
from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig, Supervisor
from animatediff.data.ingest import parts
from animatediff.data.ingest.decode_unit import Clip, DecodedUnit, decode_unit
from animatediff.data.ingest.outage import storage_works
from animatediff.data.ingest.plan import Unit, UnitRef, read_unit
from animatediff.data.quarantine import Reason, Rejection
from animatediff.data.scoring.scores import load_scorer, run_scorer
from animatediff.errors import UserError
from animatediff.uris import printable_uri
from animatediff.weights.base import load_vae
from animatediff.weights.vae import encode_frames
from pipelines.stages.ingest.metrics import IngestMetrics

INGEST_VERSION = 2

_Taken = TypeVar("_Taken")
_Given = TypeVar("_Given")


@dataclass(frozen=True)
class EncodeSpec:
    """What the driver tells every worker."""

    output_uri: str
    base: str
    dtype: str
    encoder_fp: str
    clips: ClipConfig
    decode: DecodeConfig
    scorers: tuple[str, ...]
    device: str
    trusted: bool
    """Whether rows may point anywhere; see `SourceConfig.trusted`."""
    quarantine_unreachable: bool
    """Whether videos of a storage that is away are put aside; see `IngestConfig`."""


@dataclass
class Work:
    """A unit on its way, and the seconds that each stage took for it so far."""

    decoded: DecodedUnit
    seconds: dict[str, float]


@dataclass(frozen=True)
class UnitResult:
    """What became of one committed unit."""

    num_videos: int
    num_clips: int
    reasons: dict[str, int]
    """Quarantined videos by reason."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by stage: `decode` with fetching and the built-in scores, `score` by scorers of the user's, `encode`."""


class Stage(ABC, Generic[_Taken, _Given]):
    """One step of a unit's way, of which Ray Data runs a pool of actors.

    A row between two stages has two columns: the unit, pickled, and `error`, empty where all is well. What a user can
    mend travels as a row's error, because Ray Data keeps of a raised exception only its text.
    """

    takes: ClassVar[str]
    """Name of the column that it reads."""
    gives: ClassVar[str]
    """Name of the column that it writes in its place."""
    cpus: ClassVar[float] = 0.5
    """CPUs of one actor: half of one, so that a decoder and an encoder fit on a machine of one."""
    uses_device: ClassVar[bool] = False
    """Whether an actor computes on a GPU of its own, where the job uses any."""

    @classmethod
    def resources(cls, spec: EncodeSpec) -> dict[str, float]:
        """Return what one actor reserves, by Ray's names."""
        gpu = {"GPU": 1.0} if cls.uses_device and spec.device == "cuda" else {}
        return {"CPU": cls.cpus} | gpu

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Turn the columns `takes` and `error` of one unit into `gives` and `error`; an error passes through."""
        (data,), (error,) = batch[self.takes], batch["error"]
        given = b""
        if not error:
            try:
                given = pickle.dumps(self.run(pickle.loads(data)), protocol=5)
            except UserError as mendable:
                error = str(mendable)
        return {self.gives: [given], "error": [error]}

    @abstractmethod
    def run(self, taken: _Taken) -> _Given:
        """Do the stage's work on one unit.

        Raises:
            UserError: what ends the job with one line; the unit stays pending.
        """


class Decode(Stage[UnitRef, Work]):
    """Fetch and decode a unit's videos."""

    takes, gives = "ref", "decoded"

    def __init__(self, spec: EncodeSpec) -> None:
        self._spec = spec
        self._supervisor = Supervisor(spec.decode, spec.clips)
        self._bounds: dict[str, Any] = {"max_bytes": spec.decode.max_mb * 1_000_000, "trusted": spec.trusted}
        self._metrics = IngestMetrics()

    def run(self, taken: UnitRef) -> Work:
        """Return the unit's clips, and why its other videos gave none."""
        began = time.perf_counter()
        unit = read_unit(self._spec.output_uri, taken)
        decoded = decode_unit(unit, self._supervisor, is_outage=self._is_outage, **self._bounds)
        seconds = time.perf_counter() - began
        self._metrics.decoded(seconds)
        return Work(decoded, {"decode": seconds})

    def _is_outage(self, unit: Unit) -> bool:
        spec = self._spec
        return not spec.quarantine_unreachable and not storage_works(spec.output_uri, unit, **self._bounds)


class Score(Stage[Work, Work]):
    """Give each clip the scores of the user's own scorers."""

    takes, gives = "decoded", "decoded"

    def __init__(self, spec: EncodeSpec) -> None:
        # As in `Encode`: a scorer that computes with torch gives equal clips equal scores.
        torch.set_num_threads(1)
        self._scorers = [(path, load_scorer(path)) for path in spec.scorers]
        self._metrics = IngestMetrics()

    def run(self, taken: Work) -> Work:
        """Set `own_scores` of the unit's clips."""
        began = time.perf_counter()
        for clip in taken.decoded.clips:
            clip.own_scores = self._scores_of(clip)
        seconds = time.perf_counter() - began
        self._metrics.scored(seconds)
        return Work(taken.decoded, taken.seconds | {"score": seconds})

    def _scores_of(self, clip: Clip) -> dict[str, float]:
        own: dict[str, float] = {}
        for path, scorer in self._scorers:
            scores = run_scorer(scorer, clip.window.frames, clip.video.caption)
            taken = sorted(scores.keys() & {*own, *columns.KNOWN})
            if taken:
                raise UserError(f"scorer {path} returned a score named {taken[0]!r}, which is taken: rename it")
            own |= scores
        return own


class Encode(Stage[Work, UnitResult]):
    """Encode a unit's clips with the resident VAE and commit them."""

    takes, gives = "decoded", "result"
    uses_device = True

    def __init__(self, spec: EncodeSpec) -> None:
        # Sums round by the number of threads, and Ray's workers differ in it: one makes equal clips equal bytes.
        torch.set_num_threads(1)
        self._spec = spec
        self._vae = load_vae(spec.base).to(device=spec.device, dtype=getattr(torch, spec.dtype))
        self._metrics = IngestMetrics()

    def run(self, taken: Work) -> UnitResult:
        """Write the unit's part; a video with a clip whose latents are not finite is set aside."""
        began = time.perf_counter()
        unit, rows, broken = taken.decoded.unit, [], {}
        for clip in taken.decoded.clips:
            latents = encode_frames(self._vae, clip.window.frames)
            if np.isfinite(latents).all():
                rows.append(self._row(unit.unit_id, clip, latents))
            else:
                broken[clip.video.video_id] = _nan_rejection(unit.unit_id, clip)
        # A video is in a shard or in quarantine, never in both.
        rows = [row for row in rows if row["video_id"] not in broken]
        rejected = [*taken.decoded.rejected, *broken.values()]
        parts.commit(self._spec.output_uri, unit.unit_id, rows, rejected)
        reasons = dict(Counter(str(rejection.reason) for rejection in rejected))
        seconds = time.perf_counter() - began
        self._metrics.committed(len(rows), reasons, seconds)
        return UnitResult(len(unit.videos), len(rows), reasons, taken.seconds | {"encode": seconds})

    def _row(self, unit_id: str, clip: Clip, latents: np.ndarray) -> dict[str, object]:
        window, (n_frames, height, width, _) = clip.window, clip.window.frames.shape
        return {
            "clip_id": clip.clip_id,
            "video_id": clip.video.video_id,
            "unit_id": unit_id,
            "window": window.window,
            "n_windows": clip.num_windows,
            "t_start": window.t_start,
            "t_end": window.t_end,
            "fps_src": window.fps_src,
            "n_frames": n_frames,
            "width": width,
            "height": height,
            "bucket": window.bucket,
            "flip": window.flip,
            "caption": clip.video.caption,
            "latent": latents.tobytes(),
            "latent_shape": list(latents.shape),
            "latent_dtype": str(latents.dtype),
            "scores": sorted(clip.own_scores.items()),
            "src_sha256": clip.src_sha256,
            "decoder": window.decoder,
            "encoder_fp": self._spec.encoder_fp,
            "ingest_version": INGEST_VERSION,
        } | window.scores


def _nan_rejection(unit_id: str, clip: Clip) -> Rejection:
    detail = f"the latents of window {clip.window.window} are not finite in float16"
    return Rejection(
        clip.video.video_id,
        printable_uri(clip.video.uri),
        unit_id,
        "encode",
        Reason.NAN_LATENT,
        detail,
        src_sha256=clip.src_sha256,
    )
