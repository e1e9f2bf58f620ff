"""Weights that MLflow keeps: `models:/` and `runs:/` URIs to files that workers can open.

Workers know no tracking server, and a server may give its files to nobody but its own client. So the driver fetches
them, and puts each below the job's output folder under the hash of its content.
"""

import logging
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.catalog.catalog import Catalog
from animatediff.rendering.catalog.entries import Entry, Prompt
from animatediff.rendering.catalog.named_files import named_files, with_uris
from animatediff.uris import with_secrets
from animatediff.weights.checkpoints import content_hash
from pipelines.tracking.tracker import long_waits, open_client, reason, tracking_uri

logger = logging.getLogger(__name__)

_MODEL = re.compile(r"models:/(?P<name>[^/]+?)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+|latest))(?:/(?P<path>.+))?")
_RUN = re.compile(r"runs:/(?P<run_id>[^/]+)(?:/(?P<path>.+))?")
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
# Configs that weights of these names cannot be read without.
_CONFIGS = {
    "adapter_model": "adapter_config.json",
    "diffusion_pytorch_model": "config.json",
    "model": "config.json",  # of an image encoder, as transformers writes one
    "pytorch_model": "config.json",
}
_NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_MAX_NAMED = 5  # in an error's line

_HasPromptsT = TypeVar("_HasPromptsT", Catalog, Entry)


class _Artifact(NamedTuple):
    """A file or folder in MLflow's storage."""

    root: str
    path: str


def fetch_catalog_weights(catalog: Catalog, output_uri: str) -> Catalog:
    """Fetch the weights that MLflow keeps, and return the catalog with the URIs where workers can open them.

    Args:
        catalog: it may name weights by `models:/` and `runs:/` URIs, bases excepted.
        output_uri: the job's output folder.

    Raises:
        UserError: as `fetch_weights` says.
    """
    fetch = cache(lambda uri: fetch_weights(uri, output_uri))
    shared = _with_prompts(with_uris(catalog, fetch), fetch)
    # Most of 100,000 entries are as they were.
    entries = (with_uris(entry, fetch) if _names_mlflow(entry) else entry for entry in catalog.entries)
    return shared.model_copy(update={"entries": tuple(_with_prompts(entry, fetch) for entry in entries)})


def _with_prompts(config: _HasPromptsT, fetch: Callable[[str], str]) -> _HasPromptsT:
    """Return an entry, or the catalog, whose prompts name files in the place of what MLflow keeps."""
    if not any(map(_names_mlflow, config.prompts)):
        return config
    prompts = tuple(with_uris(prompt, fetch) if _names_mlflow(prompt) else prompt for prompt in config.prompts)
    return config.model_copy(update={"prompts": prompts})


def _names_mlflow(config: Entry | Prompt) -> bool:
    return any(is_in_mlflow(file.uri) for file in named_files(config) if file.slot.role != "base")


def is_in_mlflow(uri: str) -> bool:
    """Whether a URI names weights that MLflow keeps."""
    return uri.startswith(("models:/", "runs:/"))


def fetch_weights(uri: str, output_uri: str) -> str:
    """Fetch the weights that a URI names if MLflow keeps them, and return where workers can open them.

    Args:
        uri: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `models:/NAME/latest` or `runs:/RUN_ID`, each with the path
            of a file or folder among the artifacts after it where there are several; anything else is given back.
        output_uri: the job's output folder. The file is put below its `inputs/`, unless it is there already.

    Raises:
        UserError: MLflow cannot be reached or has no such model, version or run, or there is not one weights file.
    """
    if not is_in_mlflow(uri):
        return uri
    with tempfile.TemporaryDirectory() as folder:
        file, *config = _fetch(uri, _artifact(uri), Path(folder))
        whole = file.parent if config else file  # a folder's reader reads the config, too
        home = storage.join(storage.absolute(output_uri), "inputs", content_hash(str(whole)))
        kept = storage.join(home, file.name)
        if not storage.exists(kept):
            for path in (*config, file):  # the weights last: where they are, all is
                _put(path, storage.join(home, path.name))
    logger.info("%s: taken from MLflow to %s", uri, kept)
    return home if config else kept


def _put(path: Path, uri: str) -> None:
    with storage.write_file(uri) as draft:
        shutil.copyfile(path, draft)


def _artifact(uri: str) -> _Artifact:
    """Return what a URI names, as an address that needs no registry."""
    if run := _RUN.fullmatch(uri):
        return _Artifact(_root_of_run(run["run_id"]), run["path"] or "")
    if model := _MODEL.fullmatch(uri):
        return _Artifact(_root_of_model(model["name"], model["alias"], model["version"]), model["path"] or "")
    raise UserError(
        f"{uri} names no weights: write models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME/latest or "
        "runs:/RUN_ID/path/of/the/file"
    )


def _root_of_run(run_id: str) -> str:
    with _asking(f"no run {run_id}"):
        return str(open_client().get_run(run_id).info.artifact_uri)


def _root_of_model(name: str, alias: str | None, version: str | None) -> str:
    with _asking(f"no registered model {name!r}"):
        client = open_client()
        model = client.get_registered_model(name)
    known = [int(latest.version) for latest in model.latest_versions]
    if not known:
        raise UserError(f"registered model {name!r} has no version yet: register one first")
    if alias is not None:
        version = model.aliases.get(alias)
        if version is None:
            raise UserError(f"registered model {name!r} has no alias {alias!r}: it has {_some(model.aliases)}")
    number = str(max(known)) if version == "latest" else str(version)
    with _asking(f"no version {number} of registered model {name!r} (the latest is {max(known)})"):
        return str(client.get_model_version_download_uri(name, number))


def _fetch(uri: str, artifact: _Artifact, folder: Path) -> list[Path]:
    """Return the one weights file of an artifact in a local folder, and after it the config that belongs to it."""
    with _asking(f"no artifacts at {uri}"), long_waits():
        root, path = _weights_file(uri, artifact)
        wanted = [path]
        below, name = posixpath.split(path)
        if beside := _CONFIGS.get(name.partition(".")[0]):
            config = posixpath.join(below, beside)
            wanted += [config] if config in _files(root, below) else []
        return [Path(_repository(root).download_artifacts(each, str(folder))) for each in wanted]


def _weights_file(uri: str, artifact: _Artifact) -> _Artifact:
    """Return the one weights file in an artifact's folder, or the artifact itself where that is a file."""
    files = _files_below(*artifact)
    if not files:
        above, _, name = posixpath.join(*artifact).rstrip("/").rpartition("/")
        if name in _files(above):
            return _Artifact(above, name)
    weights = [file for file in files if file.endswith(_WEIGHTS)]
    if len(weights) == 1:
        return _Artifact(artifact.root, weights[0])
    if weights:
        root = uri.removesuffix(artifact.path).rstrip("/")
        raise UserError(f"{uri} has {len(weights)} weights files: name one, as in {root}/{weights[0]}")
    there = _some(files or _files_below(artifact.root))
    raise UserError(f"{uri} has no weights file ({', '.join(_WEIGHTS)}) among its artifacts: there is {there}")


def _files(root: str, path: str = "") -> list[str]:
    """Return the paths of the files directly in a folder."""
    return [info.path for info in _repository(root).list_artifacts(path or None) if not info.is_dir]


def _files_below(root: str, path: str = "") -> list[str]:
    infos = _repository(root).list_artifacts(path or None)
    return [file for info in infos for file in (_files_below(root, info.path) if info.is_dir else [info.path])]


def _repository(root: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    # MLflow's own functions for `models:/` ask the server of the whole process, which need not be this one.
    return get_artifact_repository(root, tracking_uri=with_secrets(tracking_uri()))


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return (", ".join(shown[:_MAX_NAMED]) + (", ..." if len(shown) > _MAX_NAMED else "")) or "none"


@contextmanager
def _asking(missing: str) -> Iterator[None]:
    """Whatever goes wrong with MLflow as one line; `missing` is what it means that something was not found."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client, and each storage behind it, has its own
        where = tracking_uri()
        if getattr(error, "error_code", None) in _NOT_FOUND:
            raise UserError(f"MLflow at {where} has {missing}: check it, and MLFLOW_TRACKING_URI") from error
        raise UserError(f"cannot use MLflow at {where}: {reason(error)} (check MLFLOW_TRACKING_URI)") from error
