"""The shard schema, version 2, and Parquet in and out of storage.

Latents are `binary` columns: reading them is 7 to 10 times faster than list columns (measured, pyarrow 26).
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from animatediff import storage
from animatediff.data import parquet
from animatediff.data.clips.source_crop import SourceCrop
from animatediff.data.scoring.columns import SCORE_COLUMNS
from animatediff.errors import UserError, one_line
from animatediff.storage.errors import is_absence, printable_error, unreachable

ROW_GROUP_ROWS = 64
SCHEMA_VERSION = 2
_FOOTER_BLOCK = 2**16  # bytes that object stores are asked for at once; their default is megabytes

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("unit_id", pa.string()),
        ("window", pa.int32()),
        ("n_windows", pa.int32()),  # number of clips of this video in the dataset, mirrored copies included
        ("t_start", pa.float64()),  # seconds into the video
        ("t_end", pa.float64()),
        ("fps_src", pa.float64()),
        ("n_frames", pa.int32()),
        ("width", pa.int32()),  # of the encoded pixels
        ("height", pa.int32()),
        *((name, pa.int32()) for name in SourceCrop._fields),
        ("bucket", pa.string()),
        ("flip", pa.bool_()),
        ("caption", pa.string()),
        ("tags", pa.list_(pa.string())),  # of a tagger, the most important first; null where there are none
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
_LATER_COLUMNS = (*SourceCrop._fields, "tags")  # which files of earlier releases have not


def to_parquet(table: pa.Table, metadata: dict[str, str]) -> bytes:
    """Return a Parquet file with `metadata` in its footer. The same table gives the same bytes.

    Float data does not compress (8 % at 2-3 times the reading cost, measured), so only the other columns are.
    """
    footer = {key.encode(): value.encode() for key, value in metadata.items()}
    return parquet.write(
        table.replace_schema_metadata(footer),
        row_group_size=ROW_GROUP_ROWS,
        compression={name: "none" if name in _LATENT_COLUMNS else "zstd" for name in table.column_names},
        use_dictionary=[name for name in ("bucket", "decoder", "encoder_fp", "unit_id") if name in table.column_names],
        write_statistics=False,
    )


def from_parquet(data: bytes) -> pa.Table:
    """Return the whole table.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged.
        OSError: the file is damaged.
    """
    return parquet.read(io.BytesIO(data))


def read_table(uri: str, *, remedy: str) -> pa.Table:
    """Read a whole file that `to_parquet` made.

    Args:
        uri: the file.
        remedy: what its user can do when it is damaged, in the imperative.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is damaged, or the storage cannot be reached.
    """
    data = storage.read_bytes(uri)
    with _errors_naming_file(uri, remedy):
        return from_parquet(data)


def read_footer(data: bytes) -> dict[str, str]:
    """Return the metadata that `to_parquet` was given.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged.
    """
    return _own_metadata(io.BytesIO(data))


def row_group_rows(data: bytes) -> list[int]:
    """Return how many rows each row group of a file has.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged.
    """
    metadata = parquet.read_metadata(io.BytesIO(data))
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def read_footer_at(uri: str, *, remedy: str) -> dict[str, str]:
    """Return the metadata that `to_parquet` was given, without reading the file's rows.

    Args:
        uri: the file.
        remedy: what its user can do when it is damaged, in the imperative.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _errors_naming_file(uri, remedy), _opened(uri, block_size=_FOOTER_BLOCK) as file:
        return _own_metadata(file)


def with_later_columns(table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Return rows of a file of any release with the columns that it was too early for, null.

    Args:
        table: as it was read.
        columns: names that are asked for; None is all, in the schema's order.
    """
    for name in _LATER_COLUMNS if columns is None else columns:
        if name in _LATER_COLUMNS and name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
    return table.select(SCHEMA.names) if columns is None else table


def read_row_group(uri: str, index: int, columns: Sequence[str]) -> pa.Table:
    """Read one row group of a shard, only the named columns fetched; what an earlier release did not know is null.

    Raises:
        UserError: the shard is missing or damaged.
    """
    with _errors_naming_file(uri), _opened(uri) as file:
        return with_later_columns(parquet.read(file, columns, row_group=index), columns)


def read_columns(uri: str, columns: Sequence[str]) -> pa.Table:
    """Read all rows of a shard, only the named columns fetched; what an earlier release did not know is null.

    Raises:
        UserError: the shard is missing or damaged.
    """
    with _errors_naming_file(uri), _opened(uri) as file:
        return with_later_columns(parquet.read(file, columns), columns)


def _own_metadata(file: Any) -> dict[str, str]:
    metadata = parquet.read_metadata(file).schema.to_arrow_schema().metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}


def _opened(uri: str, **options: Any) -> Any:
    fs, path = storage.filesystem(uri)
    try:
        return fs.open(path, "rb", **options)
    except Exception as error:  # each storage has its own
        if is_absence(error):
            raise FileNotFoundError(uri) from printable_error(error)
        raise unreachable(uri, error) from printable_error(error)


@contextmanager
def _errors_naming_file(uri: str, remedy: str = "restore it, or ingest again into another folder") -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{uri} is missing: {remedy}") from error
    except (ConnectionError, TimeoutError, PermissionError) as error:
        raise unreachable(uri, error) from printable_error(error)
    # Files without checksums, when damaged, fail in many ways.
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(f"cannot read {uri}, it is damaged: {one_line(error)} ({remedy})") from error


def latent_from_row(row: dict[str, Any]) -> np.ndarray:
    """Return the latents of one row: (f c h w) in their stored dtype, unscaled."""
    return np.frombuffer(row["latent"], dtype=row["latent_dtype"]).reshape(row["latent_shape"])


def sha256(data: bytes) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a local file's bytes, in hex; it need not fit in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
