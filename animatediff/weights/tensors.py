"""One weights file, opened without running it: its tensors by name, memory-mapped.

Pickled files (`.ckpt`, `.pt`, `.bin`) go through torch's weights-only reader, which builds tensors and plain values
and nothing else. What a file is follows from its content, never from its suffix.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from animatediff.errors import UserError
from animatediff.weights.files import local_copy

# Everything below is also the bound on what a hostile file can cost.
_MAX_TENSORS = 100_000
_MAX_DEPTH = 4
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own bound
_MAX_PICKLE_BYTES = 64 << 20  # the pickled index of the largest SDXL checkpoints is below 1 MiB

_PLAIN = (str, int, float, bool)


class _Inert:
    """Stands in for a class that published pickles name and nobody needs: it takes anything and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


class _Parameters(dict[str, Any]):
    """Stands in for `torch.nn.ParameterDict`, in which the first textual inversions were saved."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.update(state.get("_parameters") or {})


# PyTorch Lightning's trainer left these beside the weights of Stable Diffusion's own `.ckpt` files.
_LEFTOVERS = (
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.base.Callback",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Parameters, "torch.nn.modules.container.ParameterDict"),
    *((_Inert, name) for name in _LEFTOVERS),
]


@dataclass(frozen=True)
class TensorFile:
    """The content of a weights file.

    Reading `tensors` costs no memory: they are views of the mapped file, read from disk as they are used. They must
    not be written to.
    """

    uri: str
    tensors: Mapping[str, Tensor]
    """By name. Wrappers (`state_dict`, DDP's `module.`) are gone; nested dicts of a pickle are joined with dots."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """A safetensors file's own; empty for pickled files."""
    values: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Plain values that stand beside a pickle's tensors, by name."""


def open_tensors(uri: str) -> TensorFile:
    """Open a weights file.

    Raises:
        UserError: there is no such file, it is broken or no weights file, or reading it would run code.
    """
    path = local_copy(uri)
    if path.is_dir():
        raise UserError(f"{uri} is a folder, a weights file is needed")
    with path.open("rb") as file:
        head = file.read(512)
    if _is_pickle(head) and not _is_safetensors(head):
        tensors, values = _read_pickle(path, uri)
        return TensorFile(uri, _checked(tensors, path, uri), values=values)
    if not _is_safetensors(head):
        raise UserError(f"{uri} {_what_else(head)}")
    tensors, metadata = _read_safetensors(path, uri)
    return TensorFile(uri, _checked(tensors, path, uri), metadata=metadata)


def _is_safetensors(head: bytes) -> bool:
    """Such a file begins with its header's length, which may look like the mark of any other format."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER_BYTES


def _is_pickle(head: bytes) -> bool:
    return head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))


def _what_else(head: bytes) -> str:
    """What a file is that is no weights: most often a download that went wrong."""
    if not head:
        return "is empty: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights: run `git lfs pull` where it was cloned"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not weights: the site wanted a login or an agreement, download it again"
    if head.lstrip()[:1] == b"{":
        return "is a JSON text, not weights: it may be a server's error message, download it again"
    if head.startswith(b"GGUF"):
        return "is a GGUF file of quantised weights: take the model's float .safetensors file"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"RIFF")):
        return "is a picture, not weights: of an embedding in a picture, take its .pt or .safetensors file"
    return "is no weights file, or a broken one: it begins neither as safetensors nor as PyTorch's files do"


def _read_safetensors(path: Path, uri: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            if len(names) > _MAX_TENSORS:
                raise UserError(f"{uri} claims {len(names)} tensors: it is no model")
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{uri} is not a whole safetensors file ({_one_line(error)}): download it again") from error


def _read_pickle(path: Path, uri: str) -> tuple[dict[str, Tensor], dict[str, str | int | float | bool]]:
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_zip(path, uri)
    try:
        with (
            torch.serialization.safe_globals(_STAND_INS),
            warnings.catch_warnings(action="ignore"),
            path.open("rb") as file,
        ):
            # By a path's suffix torch would take a pickle that is called .safetensors for what it is not.
            is_misnamed = path.suffix == ".safetensors"
            source: Any = file if is_misnamed else path
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip and not is_misnamed)
    except pickle.UnpicklingError as error:
        raise UserError(f"{uri} {_why_refused(error)}") from error
    except Exception as error:  # a broken pickle can fail in any way, and none of them is the user's to debug
        raise UserError(f"{uri} is not a whole PyTorch file ({_one_line(error)}): download it again") from error
    if isinstance(content, Tensor):
        content = {"": content}
    if not isinstance(content, Mapping):
        raise UserError(f"{uri} holds a {type(content).__name__}, not a dict of tensors")
    inner = content.get("state_dict", content)
    flat = dict(_flatten(inner if isinstance(inner, Mapping) else content))
    tensors = {name: value.detach() for name, value in flat.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in flat.items() if isinstance(value, _PLAIN)}


def _check_zip(path: Path, uri: str) -> None:
    """Refuse archives that grow when opened: torch stores tensors uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{uri} is not a whole PyTorch file ({_one_line(error)}): download it again") from error
    if not any(record.filename.endswith("data.pkl") for record in records):
        raise UserError(f"{uri} is a zip archive, not a PyTorch file: unpack it and name the weights file inside")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise UserError(f"{uri} holds compressed records, which PyTorch never writes: it is not opened")
    if any(record.file_size > _MAX_PICKLE_BYTES for record in records if record.filename.endswith(".pkl")):
        raise UserError(f"{uri} has an index of more than {_MAX_PICKLE_BYTES >> 20} MiB: it is not opened")


def _why_refused(error: Exception) -> str:
    # torch names the offender after "GLOBAL", in one of several sentences, below a page of advice.
    reason = str(error).rpartition("WeightsUnpickler error:")[2]
    if match := re.search(r"GLOBAL:? ([\w.]+)", reason):
        return (
            f"is a pickle that wants to run {match[1]}, so it is not read: if you trust it, save its tensors as "
            ".safetensors on an isolated machine"
        )
    fault, *_advice = re.split("Please|Check", reason)
    return f"is not a whole PyTorch file, or a pickle of another kind ({_one_line(fault)}): take a .safetensors file"


def _flatten(content: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth < _MAX_DEPTH:
            yield from _flatten(value, f"{name}.", depth + 1)
        else:
            yield name, value


def _checked(tensors: dict[str, Tensor], path: Path, uri: str) -> dict[str, Tensor]:
    if not tensors:
        raise UserError(f"{uri} holds no tensors")
    if len(tensors) > _MAX_TENSORS:
        raise UserError(f"{uri} claims {len(tensors)} tensors: it is no model")
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(f"{uri}: {name} is a sparse, quantised or absent tensor, plain ones are needed")
        # A stride of 0 makes a terabyte of four bytes.
        if tensor.numel() * tensor.element_size() > size:
            raise UserError(f"{uri}: {name} claims {list(tensor.shape)}, more than the file holds")
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _one_line(error: Exception | str) -> str:
    return " ".join(str(error).split())[:200]
