"""YAML files as mappings of plain values, within bounds that no file breaks by what it says."""

import os
from pathlib import PurePath, PurePosixPath
from typing import Any

import yaml

from animatediff import storage
from animatediff.errors import UsageError, UserError
from animatediff.uris import hide_secrets, parent

# The parser takes about 1 s for a megabyte; whatever is larger is a list, and lists are read faster as tables.
_MAX_BYTES = 8 << 20
# Loaders call themselves for each level, and run out of stack at some thousands; no config of ours has ten.
_MAX_DEPTH = 64
# Values with every alias written out: 2 KB of aliases to aliases are billions, in whatever prints or copies them.
_MAX_VALUES = 2_000_000

# libyaml's is ten times as fast, which a catalog of thousands of entries needs.
_SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SAFE_LOADER):
    """Refuses a key that is given twice in a mapping, of which YAML's own loader silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} is given more than once")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(uri: str) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        UsageError: the file is missing, is too large or too deeply nested, or holds something else.
    """
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {uri}") from error
    except UserError as error:
        raise UsageError(str(error)) from error
    if len(content) > _MAX_BYTES:
        raise UsageError(
            f"{uri} has {len(content) / 1e6:.1f} MB, a YAML file may have {_MAX_BYTES / 1e6:.1f}: name long lists as "
            "tables (entries_uri, prompts_uri: CSV, JSONL or Parquet)"
        )
    try:
        _check_bounds(content)
        values = yaml.load(content, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # numbers of thousands of digits, days that are none
        raise UsageError(f"{uri} is not valid YAML: {' '.join(str(error).split())[:500]}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{uri} must hold a YAML mapping, not {type(values).__name__}")
    return values


def read_extended_yaml(uri: str) -> dict[str, Any]:
    """Read the mapping in a YAML file, over that of the file which its `extends:` names.

    Mappings are merged field by field; any other value, a list too, takes the place of the extended file's.

    Args:
        uri: a path or a URI. What a file extends is a URI, an absolute path, or a path from the file's own folder.

    Raises:
        UsageError: as `read_yaml`, for each of the files; a file extends itself, or something else than one file.
    """
    layers: dict[str, dict[str, Any]] = {}
    above: str | None = uri
    while above is not None:
        if above in layers:
            raise UsageError(f"{above} extends itself: {' -> '.join([*layers, above])}")
        layers[above] = content = read_yaml(above)
        above = _extended(above, content.pop("extends", None))
    merged: dict[str, Any] = {}
    for content in reversed(layers.values()):
        merged = _merge(merged, content)
    return merged


def _extended(uri: str, name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise UsageError(f"{uri}: extends: name one YAML file, by its path from this file's folder or by its URI")
    if "://" in name or PurePath(name).is_absolute():
        return hide_secrets(name)
    if storage.is_local(uri):
        return os.path.normpath(storage.beside(uri, name))
    folder, *steps = parent(uri), *PurePosixPath(name).parts
    for step in steps:  # an object store has no `..`
        folder = parent(folder) if step == ".." else storage.join(folder, step)
    return folder


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _merge(below[key], above[key])
    return merged


def _check_bounds(content: bytes) -> None:
    """Count depth and values on the parser's events, before anything is built from them.

    Raises:
        yaml.YAMLError: it is no YAML, or out of bounds.
    """
    counter = _Counter()
    for event in yaml.parse(content, _SAFE_LOADER):
        problem = counter.add(event)
        if problem:
            mark: Any = event.start_mark
            raise yaml.YAMLError(f"line {mark.line + 1}: {problem}")


class _Counter:
    """The values of a file so far, aliases written out, and the collections that are open."""

    def __init__(self) -> None:
        self._count = 0
        self._sizes: dict[str | None, int] = {}
        """What an anchor names, in values."""
        self._open: list[tuple[str | None, int]] = []
        """Of each collection its anchor, and the count at its start."""

    def add(self, event: yaml.Event) -> str | None:
        """Take in an event; returns what is out of bounds then."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in self._open):
                return f"*{event.anchor} stands inside itself"
            self._count += self._sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._count))
            self._count += 1
        elif isinstance(event, yaml.ScalarEvent):
            self._count += 1
            self._sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, start = self._open.pop()
            self._sizes[anchor] = self._count - start
        if len(self._open) > _MAX_DEPTH:
            return f"more than {_MAX_DEPTH} levels are nested"
        if self._count > _MAX_VALUES:
            return f"with its aliases written out it has more than {_MAX_VALUES} values"
        return None
