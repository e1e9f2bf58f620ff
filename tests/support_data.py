"""Datasets without videos: units whose clips depend on their videos' ids alone."""

import numpy as np
import pyarrow as pa

from animatediff.data import quarantine_table
from animatediff.data.ingest import parts, seal
from animatediff.data.ingest import plan as planning
from animatediff.data.ingest.plan import Planner
from animatediff.data.manifest import read_manifest
from animatediff.data.quarantine import Reason, Rejection
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError

LATENT_ENCODING = seal.LatentEncoding("key", "fp", 0.18215, latent_channels=4, latent_factor=8)


def make_videos(num, start=0):
    return [SourceVideo(f"v{i}", f"/videos/{i}.mp4", f"caption {i}") for i in range(start, start + num)]


def plan(dataset, videos, *, per_unit=3, again=()):
    """All units of the dataset, after the plan is extended."""
    planner = Planner(dataset, dataset_key="key", videos_per_unit=per_unit)
    planner.resume(dataset)
    planner.add(videos)
    planner.add_again(again)
    rejected = planner.finish()
    return planner.units, rejected


def clip_row(video, unit_id, *, window=0, n_windows=1, side=16, **scores):
    """A clip of two frames, (4 side/8 side/8) latents each."""
    number = int("".join(filter(str.isdigit, video.video_id)))
    latent = np.full((2, 4, side // 8, side // 8), number, np.float16)
    return {
        "clip_id": f"{video.video_id}-{window}",
        "video_id": video.video_id,
        "unit_id": unit_id,
        "window": window,
        "n_windows": n_windows,
        "t_start": 0.0,
        "t_end": 0.5,
        "fps_src": 8.0,
        "bucket": f"2x{side}x{side}",
        "caption": video.caption,
        "latent": latent.tobytes(),
        "latent_shape": list(latent.shape),
        "latent_dtype": "float16",
        "decoder": "pyav",
        "encoder_fp": "fp",
        "src_sha256": f"sha-{number}",
    } | scores


def commit(dataset, ref, *, rejects=lambda number: number % 5 == 4, side=lambda number: 16, windows=1):
    """Every fifth video is rejected; the others have a clip a window."""
    unit = planning.read_unit(dataset, ref)
    rows, rejected = [], []
    for video in unit.videos:
        number = int(video.video_id[1:])
        if rejects(number):
            rejected.append(Rejection(video.video_id, video.uri, unit.unit_id, "probe", Reason.EMPTY, "0 bytes"))
            continue
        for window in range(windows):
            rows.append(clip_row(video, unit.unit_id, window=window, n_windows=windows, side=side(number)))
    parts.commit(dataset, unit.unit_id, rows, rejected)


def sealed_manifest(dataset):
    try:
        return read_manifest(dataset)
    except UserError:
        return None


def do_seal(dataset, units, *, shard_bytes=150, rejected_in_planning=None, again=()):
    sealed = sealed_manifest(dataset)
    unsealed = [unit.unit_id for unit in units[sealed.num_units if sealed else 0 :]]
    summaries = parts.read_summaries(dataset, unsealed)
    plans = seal.plan_shards(summaries, sealed, shard_bytes=shard_bytes)
    shards = [seal.write_shard(dataset, shard, LATENT_ENCODING) for shard in plans]
    old = seal.read_quarantine(dataset) if sealed else quarantine_table.SCHEMA.empty_table()
    rejected_in_planning = (
        rejected_in_planning if rejected_in_planning is not None else quarantine_table.SCHEMA.empty_table()
    )
    rows = seal.merge_rejections(old, summaries, rejected_in_planning, [video.video_id for video in again])
    manifest = seal.publish(dataset, len(units), sealed, shards, rows, LATENT_ENCODING)
    seal.delete_sealed_parts(dataset, [unit.unit_id for unit in units])
    return manifest


def make_dataset(dataset, num_videos=12, *, shard_bytes=150, **how):
    """A sealed dataset; returns its manifest and units."""
    units, rejected = plan(dataset, make_videos(num_videos))
    for unit in units:
        commit(dataset, unit, **how)
    return do_seal(dataset, units, shard_bytes=shard_bytes, rejected_in_planning=rejected), units


def rows_of(table: pa.Table, name):
    return table[name].to_pylist()
