"""That no secret stands in a file."""

import re
from collections.abc import Iterator
from typing import Any

from infra.checks.compose import NAMES, variables
from infra.checks.fault import Fault
from infra.checks.tree import Tree

_NAME = re.compile(r"(password|passwd|secret|token|api_?key|access_key(_id)?|secret_key|credentials?)$", re.IGNORECASE)
_KNOWN = re.compile(
    r"\b(AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|AIza[\w-]{30,}|glpat-[\w-]{20,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
# A word in capitals is to be replaced; ${...} and $(...) are by whoever reads the file.
_IN_ADDRESS = re.compile(r"\w://[^/\s:@]+:(?!\$[{(]|[A-Z_]+@)(?P<password>[^/\s@]+)@")
_BY_REFERENCE = re.compile(r"\$[{(]")


def keys_in_text(tree: Tree) -> Iterator[Fault]:
    """Check that no file has what looks like a key, or an address with its password."""
    for name in (file for file in tree.files if not file.startswith("infra/checks/")):
        for number, line in enumerate(tree.text(name).splitlines(), 1):
            if _KNOWN.search(line):
                yield _fault(name, f"line {number}", "it looks like a key")
            if _IN_ADDRESS.search(line):
                yield _fault(name, f"line {number}", "an address with its password")


def literal_secrets(tree: Tree) -> Iterator[Fault]:
    """Check that no password or token has a value: they are taken from Secrets, `.env` or the command line."""
    for name in tree.yaml_files:
        for document in tree.documents(name):
            for place in _literal(document, ""):
                yield _fault(name, place, "a secret is written out")
    for variable, value in variables(tree).items():
        if value:
            yield _fault(NAMES, variable, "it has a value")


def secret_objects(tree: Tree) -> Iterator[Fault]:
    """Check that no Secret of Kubernetes is among the manifests: git would keep what is in it."""
    for manifest in tree.manifests("Secret"):
        yield _fault(manifest.file, manifest.name, "an object of kind Secret")
    for folder, document in tree.kustomizations.items():
        if document.get("secretGenerator"):
            yield _fault(f"{folder}/kustomization.yaml", "secretGenerator", "it makes a Secret of what is in git")


def _fault(name: str, place: str, wrong: str) -> Fault:
    return Fault(name, place, wrong, "take it out, change it where it is valid, and refer to it")


def _literal(value: Any, place: str) -> Iterator[str]:
    """Yield the places of literal secrets."""
    if isinstance(value, dict):
        named = value.get("name")
        if isinstance(named, str) and _NAME.search(named) and _is_literal(value.get("value")):
            yield f"{place}.value".strip(".")
        for key, inner in value.items():
            at = f"{place}.{key}".strip(".")
            if _NAME.search(str(key)) and "/" not in str(key) and _is_literal(inner):
                yield at
            yield from _literal(inner, at)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _literal(inner, f"{place}[{index}]")


def _is_literal(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not _BY_REFERENCE.match(value)
