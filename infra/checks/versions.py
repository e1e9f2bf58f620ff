"""That one version of a thing is meant everywhere, and that each image says which."""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from packaging.specifiers import SpecifierSet

from infra.checks.fault import Fault
from infra.checks.images import DOCKERFILES, PROJECT_IMAGE, instructions
from infra.checks.tree import Tree

PINS = "infra/pins.txt"
MLFLOW_IMAGE = "infra/docker/mlflow.Dockerfile"
_RAY_IN_TEXT = re.compile(
    r"""(?:rayVersion:\s*["']?|rayproject/ray:|\bray(?:\[[\w,]+\])?==|RAY_VERSION=)(?P<version>\d[\w.]*)"""
)
_PROJECT = re.compile(r"(?:^|/)animatediff(?:-mlflow)?:(?P<tag>[\w.-]+)")


def pins(tree: Tree) -> dict[str, str]:
    """Return the pinned versions by package."""
    lines = (line.partition("==") for line in tree.text(PINS).splitlines() if "==" in line and line[0] != "#")
    return {name.strip().lower(): version.strip() for name, _, version in lines}


def ray_version(tree: Tree) -> Iterator[Fault]:
    """Check that Ray is that of infra/pins.txt wherever a version is named: nodes of two cannot talk."""
    wanted = pins(tree).get("ray", "")
    for name in (file for file in tree.files if not file.startswith("infra/checks/") and file != PINS):
        for number, line in enumerate(tree.text(name).splitlines(), 1):
            for match in _RAY_IN_TEXT.finditer(line):
                if match["version"] != wanted:
                    wrong = f"Ray {match['version']}, but {PINS} has {wanted}"
                    yield Fault(name, f"line {number}", wrong, f"write {wanted}")
    if not SpecifierSet(_requirement(tree, "ray")).contains(wanted):
        yield Fault(PINS, "ray", f"{wanted} is none of pyproject.toml's", "change either")


def mlflow_version(tree: Tree) -> Iterator[Fault]:
    """Check that MLflow's server has the version of the jobs' client, and its driver of S3 that of the tests."""
    for line, _, rest in instructions(tree, MLFLOW_IMAGE):
        for name, found in re.findall(r"\b(MLFLOW_VERSION|boto3)={1,2}([\w.]+)", rest):
            package = name.removesuffix("_VERSION").lower()
            if found != (wanted := pins(tree).get(package)):
                yield Fault(
                    MLFLOW_IMAGE, f"line {line}", f"{package} {found}, but {PINS} has {wanted}", f"write {wanted}"
                )


def python_version(tree: Tree) -> Iterator[Fault]:
    """Check that the base image's Python is one that the project is for."""
    allowed = SpecifierSet(_pyproject(tree)["project"]["requires-python"])
    for line, word, rest in instructions(tree, PROJECT_IMAGE):
        for digits in re.findall(r"-py3(\d+)", rest) if word == "FROM" else ():
            if not allowed.contains(f"3.{digits}"):
                yield Fault(PROJECT_IMAGE, f"line {line}", f"Python 3.{digits}", f"pyproject.toml wants {allowed}")


def image_tags(tree: Tree) -> Iterator[Fault]:
    """Check that an image is named with a tag or a digest, and not by `latest`: what runs would change by itself."""
    for name, place, image in _images(tree):
        _, _, tag = image.rpartition("/")[2].partition(":")
        if "@sha256:" not in image and (not tag or tag == "latest"):
            yield Fault(name, place, f"{image} is whatever was pushed last", "name a version")


def project_tags(tree: Tree) -> Iterator[Fault]:
    """Check that the project's own images have the version of pyproject.toml."""
    wanted = str(_pyproject(tree)["project"]["version"])
    for name, place, image in _images(tree):
        match = _PROJECT.search(image)
        if match and match["tag"].removesuffix("-cpu") != wanted:
            yield Fault(name, place, f"{image}, but pyproject.toml has {wanted}", f"write {wanted}")


def _images(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Yield each image that is named: file, place, image."""
    for name in tree.yaml_files:
        for document in tree.documents(name):
            for place, image in _named(document, ("image", "image_id"), ""):
                yield name, place, image.removeprefix("docker:")
    for folder, document in tree.kustomizations.items():
        for image in document.get("images") or []:
            tag = f"@{image['digest']}" if "digest" in image else f":{image.get('newTag', '')}"
            yield f"{folder}/kustomization.yaml", "images", image.get("newName", image.get("name", "")) + tag
    for name in tree.matching(*DOCKERFILES):
        for line, word, rest in instructions(tree, name):
            if word == "FROM":
                yield name, f"line {line}", rest.split(" AS ")[0]


def _named(value: Any, keys: tuple[str, ...], place: str) -> Iterator[tuple[str, str]]:
    """Yield place and text of all fields of some names, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            at = f"{place}.{name}".strip(".")
            if name in keys and isinstance(inner, str):
                yield at, inner
            else:
                yield from _named(inner, keys, at)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _named(inner, keys, f"{place}[{index}]")


def _pyproject(tree: Tree) -> dict[str, Any]:
    return tomllib.loads(tree.text("pyproject.toml"))


def _requirement(tree: Tree, package: str) -> str:
    """Return the versions of a package that the project takes, such as `>=2.60,<3`."""
    for requirement in _pyproject(tree)["project"]["dependencies"]:
        if match := re.match(rf"{package}(\[[\w,]+\])?(?P<versions>[<>=!~].*)", requirement):
            return match["versions"]
    return ""
