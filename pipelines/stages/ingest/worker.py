"""Ingest on Ray workers: units of videos are decoded on CPUs, encoded by the VAE, and committed.

Columns between the stages: `ref` (a pickled `UnitRef`) -> `decoded` (a pickled `DecodedUnit`), `decode_s` and `error`
-> one committed unit's counts, seconds and `error`. What a user can mend travels as a row's `error`, because Ray Data
keeps of a raised exception only its text.
"""

import pickle
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
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
from animatediff.models.vae import encode_frames
from animatediff.uris import printable_uri
from animatediff.weights.base import load_vae
from pipelines.cluster.runtime import BOUNDED_RETRIES
from pipelines.stages.ingest.metrics import IngestMetrics

INGEST_VERSION = 2

CPUS_PER_ACTOR = 0.5
"""So that a decoder and an encoder fit on a machine of one CPU."""
_MAX_BLOCKS = 10_000

Batch = dict[str, Any]


@dataclass(frozen=True)
class EncodeSpec:
    """What the workers need to know."""

    output_uri: str
    base: str
    dtype: str
    encoder_fp: str
    clips: ClipConfig
    decode: DecodeConfig
    scorers: tuple[str, ...]
    device: str
    trusted: bool
    """See `SourceConfig.trusted`."""
    quarantine_unreachable: bool
    """See `IngestConfig`."""


@dataclass(frozen=True)
class UnitResult:
    """What became of one committed unit."""

    num_videos: int
    num_clips: int
    reasons: dict[str, int]
    """Quarantined videos by reason."""
    decode_s: float
    """Fetching, decoding and scoring."""
    encode_s: float


class Decode:
    """Fetch and decode a unit's videos."""

    def __init__(self, spec: EncodeSpec) -> None:
        self._spec = spec
        self._supervisor = Supervisor(spec.decode, spec.clips)
        self._bounds: dict[str, Any] = {"max_bytes": spec.decode.max_mb * 1_000_000, "trusted": spec.trusted}
        self._metrics = IngestMetrics()

    def _is_outage(self, unit: Unit) -> bool:
        spec = self._spec
        return not spec.quarantine_unreachable and not storage_works(spec.output_uri, unit, **self._bounds)

    def __call__(self, batch: Batch) -> Batch:
        """`ref` -> `decoded`, `decode_s` and `error`."""
        (ref,) = batch["ref"]
        began = time.perf_counter()
        data, error = b"", ""
        try:
            unit = read_unit(self._spec.output_uri, pickle.loads(ref))
            decoded = decode_unit(unit, self._supervisor, is_outage=self._is_outage, **self._bounds)
            self._metrics.decoded(time.perf_counter() - began)
            data = pickle.dumps(decoded, protocol=5)
        except UserError as mendable:
            error = str(mendable)
        return {"decoded": [data], "decode_s": [time.perf_counter() - began], "error": [error]}


class Encode:
    """Encode a unit's clips with the resident VAE and commit them."""

    def __init__(self, spec: EncodeSpec) -> None:
        # Sums round by the number of threads, and Ray's workers differ in it: one makes equal clips equal bytes.
        torch.set_num_threads(1)
        self._spec = spec
        self._vae = load_vae(spec.base).to(device=spec.device, dtype=getattr(torch, spec.dtype))
        self._scorers = [load_scorer(path) for path in spec.scorers]
        self._metrics = IngestMetrics()

    def __call__(self, batch: Batch) -> Batch:
        """Turn `decoded` into `result` (a pickled `UnitResult`) of the committed unit, or `error`."""
        (data,), (decode_s,), (error,) = batch["decoded"], batch["decode_s"], batch["error"]
        result = b""
        if not error:
            try:
                result = pickle.dumps(self._commit(pickle.loads(data), float(decode_s)))
            except UserError as mendable:
                error = str(mendable)
        return {"result": [result], "error": [error]}

    def _commit(self, decoded: DecodedUnit, decode_s: float) -> UnitResult:
        began = time.perf_counter()
        rows, broken = [], {}
        for clip in decoded.clips:
            latents = encode_frames(self._vae, clip.window.frames)
            if np.isfinite(latents).all():
                rows.append(self._row(decoded.unit.unit_id, clip, latents))
            else:
                broken[clip.video.video_id] = _nan_rejection(decoded.unit.unit_id, clip)
        # A video is in a shard or in quarantine, never in both.
        rows = [row for row in rows if row["video_id"] not in broken]
        rejected = [*decoded.rejected, *broken.values()]
        parts.commit(self._spec.output_uri, decoded.unit.unit_id, rows, rejected)
        reasons = dict(Counter(str(rejection.reason) for rejection in rejected))
        encode_s = time.perf_counter() - began
        self._metrics.committed(len(rows), reasons, encode_s)
        return UnitResult(len(decoded.unit.videos), len(rows), reasons, decode_s, encode_s)

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
            "scores": sorted(self._own_scores(clip).items()),
            "src_sha256": clip.src_sha256,
            "decoder": window.decoder,
            "encoder_fp": self._spec.encoder_fp,
            "ingest_version": INGEST_VERSION,
        } | window.scores

    def _own_scores(self, clip: Clip) -> dict[str, float]:
        own: dict[str, float] = {}
        for path, scorer in zip(self._spec.scorers, self._scorers, strict=True):
            scores = run_scorer(scorer, clip.window.frames, clip.video.caption)
            taken = sorted(scores.keys() & {*own, *columns.KNOWN})
            if taken:
                raise UserError(f"scorer {path} returned a score named {taken[0]!r}, which is taken: rename it")
            own |= scores
        return own


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


def encode_units(
    units: list[UnitRef], spec: EncodeSpec, *, num_decoders: int, num_encoders: int
) -> Iterator[UnitResult]:
    """Run decode and encode over `units`; yields what became of each once it is committed.

    Raises:
        UserError: the storage of a unit's videos or of the output failed; that unit stays pending.
    """
    rows = [{"ref": pickle.dumps(unit)} for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
    # A unit may take longer than Ray's half hour without progress, and so may waiting for machines.
    dataset.context.execution_no_progress_timeout_s = -1
    dataset = dataset.map_batches(
        Decode,
        fn_constructor_args=(spec,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_decoders),
        num_cpus=CPUS_PER_ACTOR,
        **BOUNDED_RETRIES,
    ).map_batches(
        Encode,
        fn_constructor_args=(spec,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_encoders),
        num_cpus=CPUS_PER_ACTOR,
        num_gpus=1 if spec.device == "cuda" else 0,
        **BOUNDED_RETRIES,
    )
    for row in dataset.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        yield pickle.loads(row["result"])
