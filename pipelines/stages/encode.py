"""Ingest on Ray workers: units of videos are decoded on CPUs, encoded by the VAE, and committed.

Columns between the stages: `unit` (a pickled `Unit`) -> `decoded` (a pickled `DecodedUnit`) and `error` ->
`num_rejected` and `num_planned` of one committed unit, and `error`. What a user can mend travels as a row's `error`,
because Ray Data keeps of a raised exception only its text.
"""

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import torch

from animatediff.data import parts
from animatediff.data.clips import ClipConfig
from animatediff.data.plan import Unit
from animatediff.data.quarantine import Reason, Rejection
from animatediff.data.units import Clip, DecodedUnit, decode_unit
from animatediff.errors import UserError
from animatediff.weights.base import load_vae
from animatediff.weights.vae import encode_frames
from pipelines.runtime import BOUNDED_RETRIES

INGEST_VERSION = 1

_MAX_BLOCKS = 10_000

Batch = dict[str, Any]


class Decode:
    """Fetch and decode a unit's videos."""

    def __init__(self, clips: ClipConfig) -> None:
        self._clips = clips

    def __call__(self, batch: Batch) -> Batch:
        """`unit` -> `decoded` and `error`."""
        (data,) = batch["unit"]
        try:
            return {"decoded": [pickle.dumps(decode_unit(pickle.loads(data), self._clips))], "error": [""]}
        except UserError as error:
            return {"decoded": [b""], "error": [str(error)]}


class Encode:
    """Encode a unit's clips with the resident VAE and commit them."""

    def __init__(
        self, base: str, *, device: str, dtype: str, encoder_fp: str, clips: ClipConfig, output_uri: str
    ) -> None:
        # Sums round by the number of threads, and Ray's workers differ in it: one makes equal clips equal bytes.
        torch.set_num_threads(1)
        self._vae = load_vae(base).to(device=device, dtype=getattr(torch, dtype))
        self._encoder_fp, self._clips, self._output_uri = encoder_fp, clips, output_uri

    def __call__(self, batch: Batch) -> Batch:
        """`decoded` -> counts of the committed unit, or `error`."""
        (data,), (decode_error,) = batch["decoded"], batch["error"]
        counts, error = {"num_rejected": 0, "num_planned": 0}, str(decode_error)
        if not error:
            try:
                counts = self._commit(pickle.loads(data))
            except UserError as storage_error:
                error = str(storage_error)
        return {name: [count] for name, count in counts.items()} | {"error": [error]}

    def _commit(self, decoded: DecodedUnit) -> dict[str, int]:
        rows, broken = [], {}
        for clip in decoded.clips:
            latents = encode_frames(self._vae, clip.frames)
            if np.isfinite(latents).all():
                rows.append(self._row(decoded.unit, clip, latents))
            else:
                broken[clip.video.video_id] = _nan_rejection(decoded.unit, clip)
        # A video is in a shard or in quarantine, never in both.
        rows = [row for row in rows if row["video_id"] not in broken]
        rejected = [*decoded.rejected, *broken.values()]
        parts.commit(self._output_uri, decoded.unit, rows, rejected)
        planned = len(decoded.unit.videos) * self._clips.windows_per_video
        return {"num_rejected": len(rejected), "num_planned": planned}

    def _row(self, unit: Unit, clip: Clip, latents: np.ndarray) -> dict[str, object]:
        return {
            "clip_id": clip.clip_id,
            "video_id": clip.video.video_id,
            "unit_id": unit.unit_id,
            "window": clip.window,
            "t_start": clip.t_start,
            "t_end": clip.t_end,
            "fps_src": clip.fps_src,
            "stride": self._clips.stride,
            "n_frames": len(clip.frames),
            "width": self._clips.width,
            "height": self._clips.height,
            "bucket": self._clips.bucket,
            "flip": False,
            "caption": clip.video.caption,
            "latent": latents.tobytes(),
            "latent_shape": list(latents.shape),
            "latent_dtype": str(latents.dtype),
            "motion": clip.motion,
            "static": clip.motion == 0.0,
            "src_sha256": clip.src_sha256,
            "decoder": clip.decoder,
            "encoder_fp": self._encoder_fp,
            "ingest_version": INGEST_VERSION,
        }


def _nan_rejection(unit: Unit, clip: Clip) -> Rejection:
    detail = f"the latents of window {clip.window} are not finite in float16"
    return Rejection(
        clip.video.video_id,
        clip.video.uri,
        unit.unit_id,
        "encode",
        Reason.NAN_LATENT,
        detail,
        src_sha256=clip.src_sha256,
    )


def encode_units(
    units: list[Unit],
    clips: ClipConfig,
    *,
    base: str,
    dtype: str,
    encoder_fp: str,
    output_uri: str,
    num_decoders: int,
    num_encoders: int,
    use_gpu: bool,
) -> Iterator[dict[str, Any]]:
    """Run decode and encode over `units`; yields the counts of each unit once it is committed.

    Raises:
        UserError: the storage of a unit's videos or of the output failed; that unit stays pending.
    """
    rows = [{"unit": pickle.dumps(unit)} for unit in units]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
    # A unit may take longer than Ray's half hour without progress, and so may waiting for machines.
    dataset.context.execution_no_progress_timeout_s = -1
    dataset = dataset.map_batches(
        Decode,
        fn_constructor_args=(clips,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_decoders),
        num_cpus=0.5,
        **BOUNDED_RETRIES,
    ).map_batches(
        Encode,
        fn_constructor_args=(base,),
        fn_constructor_kwargs={
            "device": "cuda" if use_gpu else "cpu",
            "dtype": dtype,
            "encoder_fp": encoder_fp,
            "clips": clips,
            "output_uri": output_uri,
        },
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_encoders),
        # A machine of one CPU runs both stages.
        num_cpus=0.5,
        num_gpus=1 if use_gpu else 0,
        **BOUNDED_RETRIES,
    )
    for row in dataset.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        yield row
