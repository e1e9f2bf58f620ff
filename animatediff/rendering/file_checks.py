"""Weights files that are not there, of another family, or for another base than a catalog gives them as."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.entries import Weights
from animatediff.rendering.remote_header import remote_header
from animatediff.weights import lora
from animatediff.weights.files import local_copy
from animatediff.weights.identify import expect
from animatediff.weights.tensors import TensorFile, open_tensors

_NUM_THREADS = 16  # they wait for storage


class GivenFile(NamedTuple):
    """A file, and what it is said to be."""

    uri: str
    role: str
    """`checkpoint`, `embedding`, or the family of a low-rank file."""


def files_of(weights: Weights) -> list[GivenFile]:
    """The files that an entry names."""
    return [
        *([GivenFile(weights.checkpoint, "checkpoint")] if weights.checkpoint is not None else []),
        *(GivenFile(file.uri, file.family) for file in weights.additions()),
        *(GivenFile(file.path, "embedding") for file in weights.embeddings),
    ]


def check_files(files: Iterable[GivenFile]) -> Mapping[GivenFile, str]:
    """What is wrong with files; those with which all is well are left out.

    A file that is there but cannot be read is no problem here: its entry's items fail with it.
    """
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(_problem, distinct)
        return {file: problem for file, problem in zip(distinct, found, strict=True) if problem}


def _problem(given: GivenFile) -> str | None:
    open_file, check_kind = _ROLES[given.role]
    try:
        if not storage.exists(given.uri):
            return f"there is no file or folder {given.uri}"
    except UserError as error:
        return str(error)
    try:
        file = remote_header(given.uri) or open_file(given.uri)
    except UserError:  # a broken file fails its own items only
        return None
    try:
        if file is not None:
            check_kind(file)
    except UserError as error:
        return str(error)
    return None


def _open_checkpoint(uri: str) -> TensorFile | None:
    """A folder's parts say themselves what they are."""
    return None if local_copy(uri).is_dir() else open_tensors(uri)


_ROLES: dict[str, tuple[Callable[[str], TensorFile | None], Callable[[TensorFile], object]]] = {
    "checkpoint": (_open_checkpoint, partial(expect, families={"checkpoint", "vae"}, base="sd1")),
    "embedding": (open_tensors, partial(expect, families={"textual_inversion"}, base="sd1")),
    "lora": (lora.open_file, partial(lora.check_kind, family="lora", base="sd1")),
    "domain_adapter": (lora.open_file, partial(lora.check_kind, family="domain_adapter", base="sd1")),
    "motion_lora": (lora.open_file, partial(lora.check_kind, family="motion_lora", base="sd1")),
}
