"""Files at any URI that fsspec opens: a local path, `s3://`, `gs://`, `http(s)://`.

Writes are atomic: a reader sees the whole new file or none of it.
"""

from animatediff.storage.deleting import delete, delete_many
from animatediff.storage.filesystems import (
    absolute,
    absolute_if_there,
    beside,
    filesystem,
    is_local,
    join,
    use_patient_retries,
)
from animatediff.storage.listing import find_files, list_files, list_names, list_sizes, list_times
from animatediff.storage.reading import PARALLEL_READS, exists, read_bytes
from animatediff.storage.writing import delete_drafts, staged, write_bytes, write_file

__all__ = [
    "PARALLEL_READS",
    "absolute",
    "absolute_if_there",
    "beside",
    "delete",
    "delete_drafts",
    "delete_many",
    "exists",
    "filesystem",
    "find_files",
    "is_local",
    "join",
    "list_files",
    "list_names",
    "list_sizes",
    "list_times",
    "read_bytes",
    "staged",
    "use_patient_retries",
    "write_bytes",
    "write_file",
]
