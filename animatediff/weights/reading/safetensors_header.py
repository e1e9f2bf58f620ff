"""Headers of safetensors files, as strictly as files need it and no stricter: whole, but written by careless programs.

The official reader refuses a file for a number in its metadata, which a new download cannot mend.
"""

import json
import mmap
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError

_MAX_BYTES = 16 << 20  # of a header; those of the largest models are below 1 MB
_LENGTH_BYTES = 8  # in which the header's own length comes first
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# The other kinds that the format knows: no weights of Stable Diffusion, unless they are packed.
_NOT_READ = {"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "U16", "U32", "U64", "C64"}


def as_texts(metadata: object) -> dict[str, str]:
    """Return a header's metadata as they should be, text by name: whatever else stands there as JSON.

    Nulls are left out, and so is all of what is no object at all.
    """
    if not isinstance(metadata, Mapping):
        return {}
    return {
        str(name): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in metadata.items()
        if value is not None
    }


def read(path: Path, uri: str, *, refused: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, memory-mapped, and the metadata of a file whose header the official reader refuses.

    What is forgiven: metadata that are no texts, padding behind the header or the last tensor.

    Args:
        path: the file.
        uri: what the user calls it.
        refused: why, in the official reader's words.

    Raises:
        UserError: the file is not whole, its tensors overlap or leave gaps, or are of a kind that is not read.
    """
    try:
        return _read(path, uri)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{uri} is not a whole safetensors file ({refused}): download it again") from error


def _read(path: Path, uri: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch takes no memory that is read-only
    start = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    if start > len(content):
        raise ValueError("its header is longer than the file")
    if start > _MAX_BYTES:
        raise ValueError(f"its header has more than {_MAX_BYTES:,} bytes")
    header = _parsed(content[_LENGTH_BYTES:start])
    metadata = as_texts(header.pop("__metadata__", None))
    for name, entry in header.items():
        kind = entry.get("dtype") if isinstance(entry, dict) else None
        if isinstance(kind, str) and kind in _NOT_READ:
            raise UserError(
                f"{uri}: {name[:100]} is of {kind} numbers: quantised weights are not read, take the float file"
            )
    places = {name: _place(name, entry) for name, entry in header.items()}
    ends = sorted((first, last) for _, _, first, last in places.values())
    if ends and (ends[0][0] != 0 or any(last != first for (_, last), (first, _) in pairwise(ends))):
        raise ValueError("its tensors overlap, or leave gaps between them")
    if ends and start + ends[-1][1] > len(content):
        raise ValueError(f"it ends {start + ends[-1][1] - len(content)} bytes too early")
    return {name: _tensor(content, start, *place) for name, place in places.items()}, metadata


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.rstrip(b"\0"))
    except RecursionError as error:
        raise ValueError("its header is nested without end") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


def _place(name: str, entry: Any) -> tuple[torch.dtype, list[int], int, int]:
    """Dtype, shape, first byte and the one behind the last."""
    try:
        dtype, shape, (first, last) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        numbers = [*shape, first, last]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"it does not say where {name[:100]} is") from error
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"the place of {name[:100]} is no place")
    if prod(shape) * dtype.itemsize != last - first:
        raise ValueError(f"{name[:100]} has not as many bytes as its shape needs")
    return dtype, list(shape), first, last


def _tensor(content: mmap.mmap, start: int, dtype: torch.dtype, shape: list[int], first: int, last: int) -> Tensor:
    if first == last:
        return torch.empty(shape, dtype=dtype)
    if (start + first) % dtype.itemsize == 0:
        return torch.frombuffer(content, dtype=dtype, count=prod(shape), offset=start + first).reshape(shape)
    raw = torch.frombuffer(content, dtype=torch.uint8, count=last - first, offset=start + first)
    return raw.clone().view(dtype).reshape(shape)  # in memory of its own, which is aligned
