"""Weights files: opened without running them, as tensors by name, memory-mapped; and written.

Pickled files (`.ckpt`, `.pt`, `.bin`) go through torch's weights-only reader, which builds tensors and plain values
and nothing else. What a file is follows from its content, never from its suffix.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error, one_line
from animatediff.storage.errors import unreachable
from animatediff.weights.reading import pickles, safetensors_header
from animatediff.weights.reading.files import local_copy

# Everything below is also the bound on what a hostile file can cost.
_MAX_TENSORS = 100_000
_MAX_NAME = 1_000  # characters; the longest published ones have below 200
_MAX_NAMES = 8 << 20  # characters together; those of 10,000 tensors have 1 MB, and each is compared with many patterns
_MAX_DEPTH = 4
_MAX_OF_NONE = 1 << 24  # what is left of the shape of a tensor without numbers, as of a LoRA of rank 0
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own bound

_PLAIN = (str, int, float, bool)
_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
# Where a file's dict lies in another one: PyTorch Lightning's and other trainers' names for it.
_WRAPPERS = ("state_dict", "model")
# What training puts before the names of a whole model.
_AROUND = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True)
class TensorFile:
    """The content of a weights file.

    Reading `tensors` costs no memory: they are views of the mapped file, read from disk as they are used. They must
    not be written to.
    """

    uri: str
    tensors: Mapping[str, Tensor]
    """By name. Wrappers (`state_dict`, `module.`, ...) are gone; nested dicts of a pickle are joined with dots."""
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
    with any_error_as_user_error(f"cannot read {uri}"):
        return _opened(path, uri)


def _opened(path: Path, uri: str) -> TensorFile:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"cannot read {uri}: {error.strerror or error}") from error
    if _is_pickle(head) and not _is_safetensors(head):
        tensors, values = _read_pickle(path, uri, head)
        return TensorFile(uri, _checked(tensors, path, uri), values=values)
    if not _is_safetensors(head):
        raise UserError(f"{uri} {_what_else(head)}")
    tensors, metadata = _read_safetensors(path, uri)
    return TensorFile(uri, _checked(tensors, path, uri), metadata=metadata)


def save_tensors(uri: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        uri: the file.
        tensors: on any device; those that share memory, as pickles may give them, are written each for itself.
        metadata: of one entry at most where equal content should be equal files: safetensors writes several in any
            order.

    Raises:
        UserError: it cannot be written.
    """
    owners: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        separate[name] = plain.clone() if plain.data_ptr() in owners else plain
        owners.add(plain.data_ptr())
    with storage.write_file(uri) as path:
        try:
            save_file(separate, path, metadata=dict(metadata) or None)
        except (SafetensorError, RuntimeError) as error:  # the first is how a full disk is told
            raise unreachable(uri, error) from error


def problem_with(given: Tensor | None, expected: Tensor | None) -> str | None:
    """Return what is wrong with a file's tensor, as the end of a sentence that begins with its name; None if nothing.

    Args:
        given: what the file has of that name.
        expected: what the model has of it.
    """
    if given is None or expected is None:
        return "is missing" if given is None else "belongs to none"
    if not given.is_floating_point():
        return f"holds {str(given.dtype).removeprefix('torch.')}, not weights"
    if not given.numel():
        return "is empty"
    return None if given.shape == expected.shape else f"is {list(given.shape)}, not {list(expected.shape)}"


def _is_safetensors(head: bytes) -> bool:
    """Such a file begins with its header's length, which may look like the mark of any other format."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER_BYTES


def _is_pickle(head: bytes) -> bool:
    return head.startswith((pickles.ZIP, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))


def _what_else(head: bytes) -> str:
    """Return what a file is that is no weights: most often a download that went wrong."""
    if not head:
        return "is empty: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights: run `git lfs pull` where it was cloned"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not weights: the site wanted a login or an agreement, download it again"
    if b'"weight_map"' in head:
        return "is the index of a model in several files: name the folder that they are in"
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
    except UserError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of its Rust, too
        return safetensors_header.read(path, uri, refused=one_line(error))


def _read_pickle(path: Path, uri: str, head: bytes) -> tuple[dict[str, Tensor], dict[str, str | int | float | bool]]:
    content = pickles.load(path, uri, is_zip=head.startswith(pickles.ZIP))
    if isinstance(content, Tensor):
        content = {"": content}
    if not isinstance(content, Mapping):
        raise UserError(f"{uri} holds a {type(content).__name__}, not a dict of tensors")
    flat = dict(itertools.islice(_flatten(_unwrapped(content)), _MAX_TENSORS + 1))
    if len(flat) > _MAX_TENSORS:
        raise UserError(f"{uri} holds more than {_MAX_TENSORS} entries: it is no model")
    tensors = {name: value.detach() for name, value in flat.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in flat.items() if isinstance(value, _PLAIN)}


def _unwrapped(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for _ in range(_MAX_DEPTH):
        inner = (content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping))
        content = next(inner, content)
    return content


def _flatten(content: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if len(name) > _MAX_NAME:  # told here, as each name inside it would begin with it
            raise UserError(f"it has an entry whose name is {len(name)} characters long: it is no model")
        # An empty one counts as an entry too: the reader of this stops at a number of entries.
        if isinstance(value, Mapping) and value and depth < _MAX_DEPTH:
            yield from _flatten(value, f"{name}.", depth + 1)
        else:
            yield name, value


def _checked(tensors: dict[str, Tensor], path: Path, uri: str) -> dict[str, Tensor]:
    if not tensors:
        raise UserError(f"{uri} holds no tensors")
    if len(tensors) > _MAX_TENSORS:
        raise UserError(f"{uri} claims {len(tensors)} tensors: it is no model")
    if sum(map(len, tensors)) > _MAX_NAMES:
        raise UserError(f"{uri} has tensors whose names are {sum(map(len, tensors)):,} characters long: it is no model")
    size = path.stat().st_size
    for name, tensor in tensors.items():
        if len(name) > _MAX_NAME:
            raise UserError(f"{uri} has a tensor whose name is {len(name)} characters long: it is no model")
        if tensor.dtype not in _DTYPES:
            raise UserError(f"{uri}: {name} is of {tensor.dtype}: quantised weights are not read, take the float file")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise UserError(f"{uri}: {name} is a sparse, quantised or absent tensor, plain ones are needed")
        # A stride of 0 makes a terabyte of four bytes.
        if not holds(tensor, size):
            raise UserError(f"{uri}: {name} claims {list(tensor.shape)}, more than the file holds")
    return without_wrapper(tensors)


def holds(tensor: Tensor, size: int) -> bool:
    """Whether a file of `size` bytes can hold a tensor; one without numbers may not be long in another dimension."""
    if not tensor.numel():
        return math.prod(length for length in tensor.shape if length) <= _MAX_OF_NONE
    return tensor.numel() * tensor.element_size() <= size


def without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by the names that they have without what training puts around the whole model.

    That is DDP's `module.`, `torch.compile`'s `_orig_mod.`, and a trainer's own `model.`; but a UNet alone is called
    `model.diffusion_model` in Stable Diffusion's layout.
    """
    names = list(tensors)
    while names and (wrapper := next((p for p in _AROUND if all(name.startswith(p) for name in names)), None)):
        if wrapper == "model." and all(name.startswith("model.diffusion_model.") for name in names):
            break
        names = [name.removeprefix(wrapper) for name in names]
    return dict(zip(names, tensors.values(), strict=True))
