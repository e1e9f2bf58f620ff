"""Pickled weights, opened without running them: torch's weights-only reader, and what a pickle can do to that.

It builds tensors and plain values and nothing else. But a pickle of some bytes can ask it for any amount of memory or
time, so what is to be built is measured first.
"""

import io
import pickle
import pickletools
import re
import threading
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from animatediff.errors import UserError, one_line

ZIP = b"PK\x03\x04"
"""How PyTorch's files begin today; older ones are pickles, one after the other."""

_MAX_PICKLE_BYTES = 64 << 20  # the pickled index of the largest SDXL checkpoints is below 1 MiB
_MAX_VALUE_BYTES = 256 << 20  # of any value in it, each of its texts and numbers counted as often as it is named
_MOST_GROWTH = 8  # of a text that is encoded
_NUM_PICKLES = 5  # of an older file, before its numbers: a mark, the format, the machine, the content, the keys
# torch's reader makes one of any length that a pickle names, and fills it.
_FILLED = ("builtins bytearray", "__builtin__ bytearray")
# torch keeps the names that a pickle may use for the whole process, and so do the warnings module its filters.
_ONE_PICKLE_AT_A_TIME = threading.Lock()


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


def load(path: Path, uri: str, *, is_zip: bool) -> Any:
    """Return what a pickled file holds; its tensors are views of the mapped file.

    Args:
        path: the file.
        uri: what the user calls it.
        is_zip: whether it begins as `ZIP`.

    Raises:
        UserError: it is broken, would run code, or asks for far more than it is.
    """
    try:
        if is_zip:
            _check_zip(path, uri)
        else:
            _check_pickles(path, uri)
        return _loaded(path, is_zip=is_zip)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{uri} {_why_refused(error)}") from error
    except Exception as error:  # a broken one can fail in any way, and none of them is the user's to debug
        fault = one_line(error).partition(". ")[0]  # advice on how to build PyTorch follows
        raise UserError(f"{uri} is not a whole PyTorch file ({fault}): download it again") from error


def _loaded(path: Path, *, is_zip: bool) -> Any:
    with path.open("rb") as file:
        # By a path's suffix torch would take a pickle that is called .safetensors for what it is not.
        is_misnamed = path.suffix == ".safetensors"
        with (
            _ONE_PICKLE_AT_A_TIME,
            torch.serialization.safe_globals(_STAND_INS),
            warnings.catch_warnings(action="ignore"),
        ):
            source: Any = file if is_misnamed else path
            return torch.load(source, map_location="cpu", weights_only=True, mmap=is_zip and not is_misnamed)


def _check_zip(path: Path, uri: str) -> None:
    """Refuse archives that grow when opened: torch stores tensors uncompressed."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        indices = [record for record in records if record.filename.endswith(".pkl")]
        if not any(record.filename.endswith("data.pkl") for record in records):
            raise UserError(f"{uri} is a zip archive, not a PyTorch file: unpack it and name the weights file inside")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise UserError(f"{uri} holds compressed records, which PyTorch never writes: it is not opened")
        if any(record.file_size > _MAX_PICKLE_BYTES for record in indices):
            raise UserError(f"{uri} has an index of more than {_MAX_PICKLE_BYTES >> 20} MiB: it is not opened")
        for record in indices:
            _check_growth(io.BytesIO(archive.read(record)), uri)


def _check_growth(file: IO[bytes], uri: str) -> None:
    """Refuse a pickle whose values are far larger than itself: it is followed with sizes in the place of values.

    A tuple of the same tuple twice, thirty times over, takes few bytes and no memory, but hours to hash; and a text can
    be encoded into one twice as long again and again.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    for op, arg, _ in pickletools.genops(file):
        if op.name == "GLOBAL" and arg in _FILLED:
            raise UserError(f"{uri} makes a bytearray, which no weights file does: it is not opened")
        if op.name == "MARK":
            marks.append(len(stack))
        elif op.name.endswith("PUT") or op.name == "MEMOIZE":
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif op.name.endswith("GET"):
            stack.append(memo[arg])
        else:
            takes = op.stack_before
            is_marked = pickletools.markobject in takes
            start = marks.pop() - takes.index(pickletools.markobject) if is_marked else len(stack) - len(takes)
            if start < 0:
                raise ValueError(f"{op.name} takes what is not there")
            growth = _MOST_GROWTH if op.name == "REDUCE" else 1
            size = growth * sum(stack[start:]) + (len(arg) if isinstance(arg, str | bytes) else 1)
            if size > _MAX_VALUE_BYTES:
                raise UserError(f"{uri} makes values far larger than itself, which no weights file does")
            stack[start:] = [size] * len(op.stack_after)


def _check_pickles(path: Path, uri: str) -> None:
    with path.open("rb") as file:
        for _ in range(_NUM_PICKLES):
            _check_growth(file, uri)
            if file.read(1) != pickle.PROTO:
                return
            file.seek(-1, io.SEEK_CUR)


def _why_refused(error: Exception) -> str:
    # torch names the offender after "GLOBAL", in one of several sentences, below a page of advice.
    reason = str(error).rpartition("WeightsUnpickler error:")[2]
    if match := re.search(r"GLOBAL:? ([\w.]+)", reason):
        return (
            f"is a pickle that wants to run {match[1]}, so it is not read: if you trust it, save its tensors as "
            ".safetensors on an isolated machine"
        )
    fault, *_advice = re.split("Please|Check", reason)
    told = " ".join(fault.split())[:200]
    return f"is not a whole PyTorch file, or a pickle of another kind ({told}): take a .safetensors file"
