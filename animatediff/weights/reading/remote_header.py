"""What a remote safetensors file holds, without fetching it: gigabytes each, of which the first kilobytes say it."""

import json
from typing import Any

import torch

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error
from animatediff.storage.errors import printable_error, unreachable
from animatediff.weights.reading.safetensors_header import as_texts
from animatediff.weights.reading.tensors import TensorFile, holds, without_wrapper

_LENGTH_BYTES = 8  # in which the header's own length comes first
_MAX_BYTES = 8 << 20  # of the largest models below 1 MB; longer ones are read from a copy of the file


def remote_header(uri: str) -> TensorFile | None:
    """Read the names and shapes in a file; zeros that take no memory stand for its numbers.

    None for local files, for those of other formats, for web servers, which may send all of a file when asked for a
    part, and for what cannot be read in this way: opening the file tells more.
    """
    if storage.is_local(uri) or not uri.endswith(".safetensors") or uri.startswith(("http://", "https://")):
        return None
    try:
        length, size = int.from_bytes(_read(uri, 0, _LENGTH_BYTES), "little"), _size(uri)
        if length > min(_MAX_BYTES, size):
            return None
        header: dict[str, Any] = json.loads(_read(uri, _LENGTH_BYTES, length))
        metadata = as_texts(header.pop("__metadata__", None))
        tensors = {name: torch.zeros(()).expand(entry["shape"]) for name, entry in header.items()}
        if not all(holds(tensor, size) for tensor in tensors.values()):
            return None
    except (UserError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError):
        return None
    return TensorFile(uri, without_wrapper(tensors), metadata) if tensors else None


def _size(uri: str) -> int:
    fs, path = storage.filesystem(uri)
    with any_error_as_user_error(f"cannot tell the size of {uri}"):
        return int(fs.size(path))


def _read(uri: str, start: int, num_bytes: int) -> bytes:
    fs, path = storage.filesystem(uri)
    try:
        return bytes(fs.cat_file(path, start=start, end=start + num_bytes))
    except Exception as error:  # each storage has its own
        raise unreachable(uri, error) from printable_error(error)
