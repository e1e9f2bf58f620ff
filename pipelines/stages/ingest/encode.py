"""The ingest job's last stage: a unit's clips are encoded by the VAE and committed."""

import time
from collections import Counter

import numpy as np
import torch

from animatediff import storage
from animatediff.data.ingest import parts
from animatediff.data.ingest.decode_unit import IngestClip
from animatediff.data.quarantine import Reason, Rejection
from animatediff.models.vae import encode_frames
from animatediff.uris import printable_uri
from animatediff.weights.base import load_vae
from pipelines.cluster.stage import Stage
from pipelines.stages.ingest.stage import DecodedWork, IngestSpec, UnitResult

INGEST_VERSION = 2


class Encode(Stage[DecodedWork, UnitResult]):
    """Encode a unit's clips with the resident VAE and commit them."""

    input_column, output_column = "decoded", "result"
    uses_device = True

    def __init__(self, spec: IngestSpec) -> None:
        # Sums round by the number of threads, and Ray's workers differ in it: one makes equal clips equal bytes.
        torch.set_num_threads(1)
        storage.use_patient_retries()
        self._spec = spec
        self._vae = load_vae(spec.base).to(device=spec.device, dtype=getattr(torch, spec.dtype))

    def process(self, work: DecodedWork) -> UnitResult:
        """Write the unit's part; a video with a clip whose latents are not finite is set aside."""
        began = time.perf_counter()
        unit, rows, broken = work.decoded_unit.unit, [], {}
        for clip in work.decoded_unit.clips:
            latents = encode_frames(self._vae, clip.decoded_clip.frames)
            if np.isfinite(latents).all():
                rows.append(self._row(unit.unit_id, clip, latents))
            else:
                broken[clip.video.video_id] = self._nan_rejection(unit.unit_id, clip)
        # A video is in a shard or in quarantine, never in both.
        rows = [row for row in rows if row["video_id"] not in broken]
        rejections = [*work.decoded_unit.rejections, *broken.values()]
        parts.commit(self._spec.output_uri, unit.unit_id, rows, rejections)
        reasons = dict(Counter(str(rejection.reason) for rejection in rejections))
        seconds = time.perf_counter() - began
        return UnitResult(unit.unit_id, len(unit.videos), len(rows), reasons, work.seconds | {"encode": seconds})

    def _row(self, unit_id: str, clip: IngestClip, latents: np.ndarray) -> dict[str, object]:
        decoded, (n_frames, height, width, _) = clip.decoded_clip, clip.decoded_clip.frames.shape
        return {
            "clip_id": clip.clip_id,
            "video_id": clip.video.video_id,
            "unit_id": unit_id,
            "window": decoded.index,
            "n_windows": clip.num_clips_of_video,
            "t_start": decoded.t_start,
            "t_end": decoded.t_end,
            "fps_src": decoded.fps_src,
            "n_frames": n_frames,
            "width": width,
            "height": height,
            **decoded.source_crop._asdict(),
            "bucket": decoded.bucket,
            "flip": decoded.flip,
            "caption": clip.video.caption,
            "tags": list(clip.video.tags) or None,
            "latent": latents.tobytes(),
            "latent_shape": list(latents.shape),
            "latent_dtype": str(latents.dtype),
            "scores": sorted(clip.user_scores.items()),
            "src_sha256": clip.src_sha256,
            "decoder": decoded.decoder,
            "encoder_fp": self._spec.vae_fingerprint,
            "ingest_version": INGEST_VERSION,
        } | decoded.scores

    def _nan_rejection(self, unit_id: str, clip: IngestClip) -> Rejection:
        detail = f"the latents of window {clip.decoded_clip.index} are not finite in float16"
        if self._spec.dtype == "float16":
            detail += ", in which this VAE overflows: ingest with vae_dtype: float32 into another output_uri"
        return Rejection(
            clip.video.video_id,
            printable_uri(clip.video.uri),
            unit_id,
            "encode",
            Reason.NAN_LATENT,
            detail,
            src_sha256=clip.src_sha256,
        )
