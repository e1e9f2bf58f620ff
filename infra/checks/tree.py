"""The files of a repository as the checks read them: parsed once, named relative to its root."""

import fnmatch
import itertools
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from infra.checks.tools import run, tool

KUBERAY = "infra/kuberay"
CONFIGS = f"{KUBERAY}/jobs/configs"
_IGNORED = {"__pycache__", ".env"}


class Manifest(NamedTuple):
    """An object of Kubernetes, from a file or from an overlay that kustomize has built."""

    file: str
    document: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its kind, such as RayJob."""
        return str(self.document.get("kind", ""))

    @property
    def name(self) -> str:
        """Its kind and name, such as `RayJob train`."""
        return f"{self.kind} {(self.document.get('metadata') or {}).get('name', '')}".strip()

    @property
    def spec(self) -> dict[str, Any]:
        """What it is to be; empty for kinds without."""
        return self.document.get("spec") or {}


class Tree:
    """A repository, read as it is asked for.

    Args:
        root: its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._documents: dict[str, list[Any]] = {}
        self._builds: dict[str, list[Manifest] | str] = {}

    def path(self, name: str) -> Path:
        """Return a file's path."""
        return self.root / name

    def text(self, name: str) -> str:
        """Return a file's text; empty where there is none."""
        path = self.path(name)
        return path.read_text() if path.is_file() else ""

    @cached_property
    def files(self) -> list[str]:
        """Names of all files of infra/, in the order of their letters."""
        found = []
        for folder, folders, names in os.walk(self.root / "infra"):
            folders[:] = [each for each in folders if each not in _IGNORED]
            found += [Path(folder, name).relative_to(self.root).as_posix() for name in names if name not in _IGNORED]
        return sorted(found)

    def matching(self, *patterns: str) -> list[str]:
        """Return the names of files that one of the patterns fits; `*` stands for folders as well."""
        return [name for name in self.files if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]

    @property
    def yaml_files(self) -> list[str]:
        """Names of all YAML files."""
        return self.matching("*.yaml", "*.yml")

    def documents(self, name: str) -> list[Any]:
        """Return a YAML file's documents; none if it is no YAML, which `yaml_syntax` tells."""
        if name not in self._documents:
            try:
                loaded = list(yaml.load_all(self.text(name), Loader=yaml.CSafeLoader))
            except yaml.YAMLError:
                loaded = []
            self._documents[name] = [document for document in loaded if document is not None]
        return self._documents[name]

    @cached_property
    def kustomizations(self) -> dict[str, dict[str, Any]]:
        """Kustomizations and components, by their folders' names."""
        found = {}
        for name in self.matching(f"{KUBERAY}/*kustomization.yaml"):
            for document in self.documents(name):
                found[str(Path(name).parent)] = document
        return found

    @cached_property
    def sources(self) -> list[Manifest]:
        """Objects as the files of infra/kuberay have them; patches are none."""
        patches = {
            str(Path(folder, patch["path"]))
            for folder, document in self.kustomizations.items()
            for patch in document.get("patches") or []
            if isinstance(patch, dict) and "path" in patch
        }
        others = {f"{folder}/kustomization.yaml" for folder in self.kustomizations} | patches
        names = [name for name in self.matching(f"{KUBERAY}/*.yaml") if name not in others]
        return [
            Manifest(name, document)
            for name in names
            if not name.startswith(CONFIGS)
            for document in self.documents(name)
            if isinstance(document, dict)
        ]

    def build(self, folder: str) -> list[Manifest] | str:
        """Return the objects that kustomize makes of a folder, or why there are none.

        Raises:
            SkippedError: there is no kubectl.
        """
        if folder not in self._builds:
            done = run([tool("kubectl"), "kustomize", str(self.path(folder))])
            documents = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if done.returncode == 0 else ()
            built = [Manifest(f"{folder}/kustomization.yaml", document) for document in documents if document]
            self._builds[folder] = built if done.returncode == 0 else done.stderr.strip()
        return self._builds[folder]

    def overlays(self) -> Iterator[tuple[str, list[Manifest]]]:
        """Yield the overlays that can be built, each with its objects."""
        for folder in self.kustomizations:
            if folder.startswith(f"{KUBERAY}/overlays/") and not isinstance(built := self.build(folder), str):
                yield folder, built

    def manifests(self, *kinds: str) -> Iterator[Manifest]:
        """Yield the objects of some kinds, or of all: first as they are written, then as the overlays make them."""
        overlaid = (manifest for _, built in self.overlays() for manifest in built)
        for manifest in itertools.chain(self.sources, overlaid):
            if manifest.kind in kinds or not kinds:
                yield manifest
