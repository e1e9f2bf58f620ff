"""Hashes of weights files, pictures and videos, remembered from one run to the next: there may be terabytes to read."""

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.catalog.catalog import Catalog
from animatediff.rendering.catalog.condition_files import files_in_digest
from animatediff.rendering.catalog.model_identity import HashFile, base_folder
from animatediff.rendering.catalog.named_files import named_files
from animatediff.storage.errors import is_absence, printable_error, unreachable
from animatediff.uris import printable_uri
from animatediff.weights import checkpoints
from animatediff.weights.reading.files import VERSION_FIELDS

_NUM_THREADS = 8
_BLOCK_BYTES = 8 << 20


class _Known(NamedTuple):
    version: str
    sha256: str


def hash_catalog_files(catalog: Catalog, remembered_uri: str, *, is_dry_run: bool = False) -> HashFile:
    """Hash all files of a catalog, those that have not changed since they were remembered excepted.

    Args:
        catalog: with all entries in it.
        remembered_uri: the JSON file with what is known by URI; it is written anew where something is added.
        is_dry_run: whether it is only read.

    Returns:
        What `expand` takes as `content_hash`.

    Raises:
        UserError: the file cannot be written.
    """
    known = _read(remembered_uri)
    # Hub ids, and files that are not there, count by their names.
    uris = [uri for uri in dict.fromkeys(_uris(catalog)) if _is_there(uri)]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        hashes = dict(zip(uris, pool.map(partial(_hashed, known), uris), strict=True))
    found = {printable_uri(uri): one for uri, one in hashes.items() if isinstance(one, _Known) and one.version}
    if not is_dry_run and not found.items() <= known.items():
        content = {uri: one._asdict() for uri, one in sorted((known | found).items())}
        storage.write_bytes(remembered_uri, json.dumps(content, indent=1).encode())

    def content_hash(uri: str) -> str:
        one = hashes[uri] if uri in hashes else _hashed(known, uri)
        if isinstance(one, Exception):
            raise one
        return one.sha256

    return content_hash


def _is_there(uri: str) -> bool:
    try:
        return "://" in uri or Path(uri).exists()
    except OSError:  # a name that is too long for a file
        return False


def _uris(catalog: Catalog) -> Iterator[str]:
    folder = cache(base_folder)
    for entry in catalog.entries:
        try:
            model = catalog.model_files(entry)
        except UserError:  # `expand` has nothing to hash there either
            continue
        for file in named_files(model):
            yield folder(file.uri) if file.slot.role == "base" else file.uri
    yield from files_in_digest(s for entry in catalog.entries for s in catalog.settings_of_prompts(entry))


def _hashed(known: Mapping[str, _Known], uri: str) -> _Known | Exception:
    try:
        version = _version(uri)  # before the content: what changes meanwhile is noticed the next time
        remembered = known.get(printable_uri(uri))
        if remembered is not None and remembered.version == version:
            return remembered
        return _Known(version, _content_hash(uri))
    except (UserError, OSError) as error:
        return error


def _content_hash(uri: str) -> str:
    """`checkpoints.content_hash`; of a remote file without a copy of it, as thousands would fill the driver's disk."""
    fs, path = storage.filesystem(uri)
    if storage.is_local(uri) or _is_pefts(uri):
        return checkpoints.content_hash(uri)
    try:
        if fs.info(path)["type"] == "directory":
            return checkpoints.content_hash(uri)
        digest = hashlib.sha256()
        with fs.open(path, "rb", block_size=_BLOCK_BYTES) as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()
    except UserError:
        raise
    except Exception as error:  # each storage has its own
        raise unreachable(uri, error) from printable_error(error)


def _is_pefts(uri: str) -> bool:
    """Whether a file's meaning lies in another beside it, too; see `checkpoints.content_hash`."""
    return posixpath.basename(uri).startswith("adapter_model.")


def _version(uri: str) -> str:
    """Return what tells a file's or folder's content from that before; empty where the storage does not say."""
    beside = [storage.beside(uri, "adapter_config.json")] if _is_pefts(uri) else []
    infos = [info for each in (uri, *beside) for info in _infos(each)]
    if not infos or not all(any(field in info for field in VERSION_FIELDS) for info in infos):
        return ""
    said = [[str(info.get(field)) for field in ("name", "size", *VERSION_FIELDS)] for info in infos]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _infos(uri: str) -> list[dict[str, Any]]:
    fs, path = storage.filesystem(uri)
    try:
        fs.invalidate_cache(path)
        info = fs.info(path)
        if info["type"] != "directory":
            return [info]
        return [found for _, found in sorted(fs.find(path, detail=True).items())]
    except Exception as error:  # each storage has its own
        if is_absence(error):
            return []
        raise unreachable(uri, error) from printable_error(error)


def _read(uri: str) -> dict[str, _Known]:
    try:
        text = storage.read_bytes(uri)
    except FileNotFoundError:
        return {}
    try:
        return {name: _Known(one["version"], one["sha256"]) for name, one in json.loads(text).items()}
    except (ValueError, TypeError, KeyError, AttributeError):  # it can be found again
        return {}
