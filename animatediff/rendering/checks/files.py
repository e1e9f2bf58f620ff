"""Weights files that are not there, of another family, or for another base than a catalog gives them as."""

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.catalog.entries import Weights
from animatediff.rendering.checks.remote_header import remote_header
from animatediff.weights.identify.identify import expect
from animatediff.weights.layouts.architectures import PARTS
from animatediff.weights.lora import read as lora
from animatediff.weights.reading.part_files import WEIGHTS_FILES
from animatediff.weights.reading.tensors import TensorFile, open_tensors

_NUM_THREADS = 16  # they wait for storage


class GivenFile(NamedTuple):
    """A file, and what it is said to be."""

    uri: str
    role: str
    """`checkpoint`, `vae`, `embedding`, or the family of a low-rank file."""

    @property
    def field(self) -> str:
        """The field of an entry that names it."""
        return f"{self.role}s" if self.role in ("embedding", "lora", "motion_lora") else self.role


def files_of(weights: Weights) -> list[GivenFile]:
    """Return the files that an entry names."""
    return [
        *([GivenFile(weights.checkpoint, "checkpoint")] if weights.checkpoint is not None else []),
        *([GivenFile(weights.vae, "vae")] if weights.vae is not None else []),
        *(GivenFile(file.uri, file.family) for file in weights.additions()),
        *(GivenFile(file.path, "embedding") for file in weights.embeddings),
    ]


def check_files(files: Iterable[GivenFile]) -> Mapping[GivenFile, str]:
    """Return what is wrong with files; those with which all is well are left out.

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
        names = _names_in(given.uri) if given.role in _PARTS else None
    except UserError as error:
        return str(error)
    if names is not None:
        return _folder_problem(given, names)
    try:
        file = remote_header(given.uri) or open_file(given.uri)
    except UserError:  # a broken file fails its own items only
        return None
    try:
        check_kind(file)
    except UserError as error:
        return str(error)
    return None


def _names_in(uri: str) -> list[str] | None:
    """Names of the files below a folder; None of a file, or of a web server, which may not know what a folder is."""
    names = ["."] if uri.startswith(("http://", "https://")) else storage.find_files(uri)
    return None if names == ["."] else names


def _folder_problem(given: GivenFile, names: Collection[str]) -> str | None:
    """Return what a checkpoint or a VAE that is a folder lacks; its parts say themselves what they are."""
    what = given.uri
    parts = [part for part in _PARTS[given.role] if any(name.startswith(f"{part}/") for name in names)]
    lacking = [part for part in parts if not _has_weights(names, f"{part}/")]
    if lacking:
        return f"{what} has no weights in its {lacking[0]}/: {WEIGHTS_FILES[0]} is missing there"
    if not parts and not _has_weights(names, ""):
        return f"{what} is a folder without weights of it: name a file, or a folder that diffusers wrote"
    return None


def _has_weights(names: Collection[str], folder: str) -> bool:
    return any(f"{folder}{name}" in names for name in WEIGHTS_FILES)


# What is looked for in a folder.
_PARTS: dict[str, Collection[str]] = {"checkpoint": PARTS.keys(), "vae": ("vae",)}
_ROLES: dict[str, tuple[Callable[[str], TensorFile], Callable[[TensorFile], object]]] = {
    "checkpoint": (open_tensors, partial(expect, families={"checkpoint", "vae"}, base="sd1")),
    "vae": (open_tensors, partial(expect, families={"vae"}, base="sd1")),
    "embedding": (open_tensors, partial(expect, families={"textual_inversion"}, base="sd1")),
    "lora": (lora.open_file, partial(lora.check_kind, family="lora", base="sd1")),
    "domain_adapter": (lora.open_file, partial(lora.check_kind, family="domain_adapter", base="sd1")),
    "motion_lora": (lora.open_file, partial(lora.check_kind, family="motion_lora", base="sd1")),
}
