"""A sealed dataset of random latents, written without a video."""

import hashlib

import numpy as np
import pyarrow as pa

from animatediff import storage
from animatediff.data.manifest import Manifest, Shard, write_manifest
from animatediff.data.shards import SCHEMA, to_parquet


def write_dataset(folder, *, num_clips, shape):
    """Write one shard of clips whose latents are (f c h w); returns the folder."""
    rng, (f, _, h, w) = np.random.default_rng(0), shape
    bucket = f"{f}x{8 * h}x{8 * w}"
    rows = [
        dict.fromkeys(SCHEMA.names)
        | {"clip_id": f"clip-{i}", "video_id": f"video-{i}", "caption": f"a red star {i}"}
        | {"latent": rng.standard_normal(shape).astype(np.float16).tobytes()}
        | {"latent_shape": list(shape), "latent_dtype": "float16"}
        for i in range(num_clips)
    ]
    data = to_parquet(pa.Table.from_pylist(rows, schema=SCHEMA), {})
    path = f"bucket={bucket}/shard-00000.parquet"
    storage.write_bytes(storage.join(str(folder), path), data)
    counts = {"num_clips": num_clips, "num_videos": num_clips}
    shard = Shard(
        path=path,
        bucket=bucket,
        row_group_rows=[num_clips],
        num_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        **counts,
    )
    facts = {"dataset_key": "key", "encoder_fp": "fp", "scaling_factor": 0.18215, "num_units": 1, "quarantined": {}}
    write_manifest(str(folder), Manifest(**facts, **counts, shards=[shard]))
    return str(folder)
