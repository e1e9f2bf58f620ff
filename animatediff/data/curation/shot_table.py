"""The table of a curated collection's shots: its columns, and the files' names."""

from collections.abc import Sequence

import pyarrow as pa

from animatediff import storage
from animatediff.data import shards
from animatediff.data.scoring.columns import SCORE_COLUMNS

SCHEMA_VERSION = 1

SCHEMA = pa.schema(
    [
        ("shot_id", pa.string()),  # {video_id}@{start_ms:09d}-{end_ms:09d}
        ("video_id", pa.string()),  # of the source's file
        ("uri", pa.string()),  # of the source's file, without secrets
        ("unit_id", pa.string()),
        ("first", pa.int64()),  # number of the first frame in the source
        ("num_frames", pa.int32()),
        ("start_pts", pa.int64()),
        ("last_pts", pa.int64()),
        ("time_base", pa.string()),  # seconds of a timestamp's unit, as a fraction
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("fps", pa.float64()),
        ("width", pa.int32()),  # of the source's picture as displayed
        ("height", pa.int32()),
        ("crop_x", pa.int32()),  # of what is no bar, in the same pixels; null where there are no bars
        ("crop_y", pa.int32()),
        ("crop_w", pa.int32()),
        ("crop_h", pa.int32()),
        ("border_before", pa.string()),  # cut, dissolve, fade, wipe, start, split
        ("border_after", pa.string()),
        ("cut_strength", pa.float32()),
        *SCORE_COLUMNS.items(),
        ("text", pa.float32()),  # how much of it is written, in [0, 1]; titles and credits from 0.5
        ("phashes", pa.list_(pa.int64())),
        ("repeats", pa.string()),  # the shot that it repeats; empty for none
        ("selected", pa.bool_()),
        ("reason", pa.string()),  # why it is not selected; empty where it is
        ("caption", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("caption_model", pa.string()),
        ("num_bytes", pa.int64()),  # of `video`, about
        ("video", pa.binary()),  # an MP4 of the shot, packets as the source has them; null where it is not selected
    ]
)
"""Every shot of the collection has a row, selected or not."""


def read_rows(collection_uri: str, paths: Sequence[str]) -> pa.Table:
    """Return the shots of shards without their videos, in the shards' order.

    Args:
        collection_uri: the collection's folder.
        paths: of the shards, relative to it.

    Raises:
        UserError: a shard is missing or damaged.
    """
    names = [name for name in SCHEMA.names if name != "video"]
    empty = SCHEMA.empty_table().select(names)
    tables = (shards.read_columns(storage.join(collection_uri, path), names) for path in paths)
    return pa.concat_tables([empty, *(table.select(names).cast(empty.schema) for table in tables)])
