"""Curated collections as the curate job seals them, of shots that a test names."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from animatediff.data.curation.shot_table import SCHEMA
from animatediff.data.decoding.videos import probe
from animatediff.data.shots.copies import copy_shot
from animatediff.storage import checked_json


def shot_row(source, first, last, **fields):
    """A row of a selected shot: the frames `first` to `last` of a video file."""
    data = Path(source).read_bytes()
    pts = probe(data).pts
    crop = dict(zip(("crop_x", "crop_y", "crop_w", "crop_h"), fields.pop("crop", ()) or (), strict=False))
    row = dict.fromkeys(SCHEMA.names) | {
        "shot_id": f"{Path(source).name}@{first:09d}-{last:09d}",
        "video_id": Path(source).name,
        "uri": str(source),
        "first": first,
        "num_frames": last - first + 1,
        "start_pts": int(pts[first]),
        "last_pts": int(pts[last]),
        "selected": True,
        "reason": "",
        "caption": f"frames from {first} on",
    }
    row |= crop | fields
    if row["selected"] and row["video"] is None:
        row["video"] = copy_shot(io.BytesIO(data), start_pts=row["start_pts"], last_pts=row["last_pts"])
    return row


def write_collection(folder, rows, *, store="copy", rows_per_group=2, rows_per_shard=3):
    """Write shards and a manifest."""
    (folder / "shots").mkdir(parents=True)
    shards = []
    for start in range(0, len(rows), rows_per_shard):
        path = f"shots/shots-000-{len(shards):05d}.parquet"
        some = [row | ({"video": None} if store == "reference" else {}) for row in rows[start : start + rows_per_shard]]
        table = pa.Table.from_pylist(some, schema=SCHEMA)
        pq.write_table(table, folder / path, row_group_size=rows_per_group, write_statistics=False)
        shards.append({"path": path, "num_shots": len(some)})
    manifest = {"kind": "shots", "selection": {"select": {}, "store": store}, "shards": shards}
    (folder / "manifest.json").write_bytes(checked_json.dump(manifest, indent=2))
