"""JSON Schemas, and what does not fit them as faults."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from infra.checks.fault import Fault
from infra.checks.tree import Manifest

FOLDER = Path(__file__).with_name("schemas")


@cache
def schema(name: str) -> dict[str, Any]:
    """Return a schema of `schemas/`, or an object of schemas by kind."""
    text = (FOLDER / name).read_text()
    loaded: dict[str, Any] = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    return loaded


def misfits(name: str, document: Any, against: dict[str, Any], *, of: str = "") -> Iterator[Fault]:
    """Yield what of a document does not fit a schema.

    Args:
        name: of its file.
        document: the parsed file.
        against: the schema.
        of: what the document is, for the place.
    """
    for error in Draft202012Validator(against).iter_errors(document):
        place = ", ".join(part for part in (of, error.json_path.removeprefix("$").lstrip(".")) if part)
        yield Fault(name, place, error.message, "its schema has no such field or value there")


def of_kind(manifest: Manifest, against: dict[str, Any]) -> Iterator[Fault]:
    """Yield what of an object of Kubernetes does not fit the schema of its kind, out of schemas by kind."""
    if manifest.kind in against:
        yield from misfits(manifest.file, manifest.document, against[manifest.kind], of=manifest.name)
