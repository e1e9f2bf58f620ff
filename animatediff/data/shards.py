"""The shard schema, version 2, and Parquet in and out of storage.

Latents are `binary` columns: reading them is 7 to 10 times faster than list columns (measured, pyarrow 26).
"""

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from animatediff import storage
from animatediff.data.scores import SCORE_COLUMNS
from animatediff.errors import UserError

ROW_GROUP_ROWS = 64
SCHEMA_VERSION = 2
_FOOTER_BLOCK = 2**16  # bytes that object stores are asked for at once; their default is megabytes

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("unit_id", pa.string()),
        ("window", pa.int32()),
        ("n_windows", pa.int32()),  # of its video: that many rows there are
        ("t_start", pa.float64()),  # seconds into the video
        ("t_end", pa.float64()),
        ("fps_src", pa.float64()),
        ("n_frames", pa.int32()),
        ("width", pa.int32()),  # of the encoded pixels
        ("height", pa.int32()),
        ("bucket", pa.string()),
        ("flip", pa.bool_()),
        ("caption", pa.string()),
        ("latent", pa.binary()),  # unscaled posterior mean
        ("latent_shape", pa.list_(pa.int32())),  # f c h w
        ("latent_dtype", pa.string()),
        *SCORE_COLUMNS.items(),
        ("scores", pa.map_(pa.string(), pa.float32())),  # of the config's own scorers, by name
        ("src_sha256", pa.string()),
        ("decoder", pa.string()),
        ("encoder_fp", pa.string()),
        ("ingest_version", pa.int32()),
    ]
)

_LATENT_COLUMNS = ("latent",)


def to_parquet(table: pa.Table, metadata: dict[str, str]) -> bytes:
    """A Parquet file with `metadata` in its footer. The same table gives the same bytes.

    Float data does not compress (8 % at 2-3 times the reading cost, measured), so only the other columns are.
    """
    buffer = io.BytesIO()
    footer = {key.encode(): value.encode() for key, value in metadata.items()}
    pq.write_table(
        table.replace_schema_metadata(footer),
        buffer,
        row_group_size=ROW_GROUP_ROWS,
        compression={name: "none" if name in _LATENT_COLUMNS else "zstd" for name in table.column_names},
        use_dictionary=[name for name in ("bucket", "decoder", "encoder_fp", "unit_id") if name in table.column_names],
        write_statistics=False,
    )
    return buffer.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """The whole table."""
    return pq.read_table(io.BytesIO(data))


def read_footer(data: bytes) -> dict[str, str]:
    """The metadata that `to_parquet` was given."""
    metadata = pq.read_schema(io.BytesIO(data)).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def read_footer_at(uri: str) -> dict[str, str]:
    """The metadata that `to_parquet` was given, without reading the file's rows.

    Raises:
        UserError: the file is missing or damaged.
    """
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb", block_size=_FOOTER_BLOCK) as file:
            metadata = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read {uri}: {error}; run ingest again or restore it") from error
    return {key.decode(): value.decode() for key, value in metadata.items()}


def read_row_group(uri: str, index: int, columns: Sequence[str]) -> pa.Table:
    """One row group of a shard, only the named columns fetched.

    Raises:
        UserError: the shard is missing or damaged.
    """
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).read_row_group(index, columns=list(columns))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read shard {uri}: {error}; run ingest again or restore it") from error


def read_columns(uri: str, columns: Sequence[str]) -> pa.Table:
    """All rows of a shard, only the named columns fetched.

    Raises:
        UserError: the shard is missing or damaged.
    """
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).read(columns=list(columns))
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read shard {uri}: {error}; run ingest again or restore it") from error


def latent_from_row(row: dict[str, Any]) -> np.ndarray:
    """The latents of one row: (f c h w) in their stored dtype, unscaled."""
    return np.frombuffer(row["latent"], dtype=row["latent_dtype"]).reshape(row["latent_shape"])


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()
