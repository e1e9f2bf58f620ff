"""The rules of the house that no linter knows: sizes of files and folders, and no circle among modules."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import animatediff
import pipelines

ROOTS = [Path(package.__file__).parent for package in (animatediff, pipelines)]
SOURCES = sorted(file for root in ROOTS for file in root.rglob("*.py"))
MAX_LINES = 300
MAX_ENTRY_LINES = 80
MAX_MODULES = 12


def num_lines(file):
    return len(file.read_text().splitlines())


def named(file):
    return str(file.relative_to(ROOTS[0].parent))


def test_a_file_has_one_subject_in_at_most_300_lines():
    assert {named(file): number for file in SOURCES if (number := num_lines(file)) > MAX_LINES} == {}


def test_an_entry_file_is_thin():
    entries = [ROOTS[1] / f"{job}.py" for job in ("ingest", "train", "animate", "score", "demo")]
    assert {named(file): number for file in entries if (number := num_lines(file)) > MAX_ENTRY_LINES} == {}


def test_a_folder_holds_at_most_12_modules():
    folders = {file.parent for file in SOURCES}
    modules = {folder: [file for file in folder.glob("*.py") if file.name != "__init__.py"] for folder in folders}
    assert {named(folder): len(found) for folder, found in modules.items() if len(found) > MAX_MODULES} == {}


@pytest.fixture(scope="module")
def imports():
    """What each module imports: at its top, and inside functions, where import-linter's acyclic rooms look as well."""
    graph = grimp.build_graph("animatediff", "pipelines", cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def in_circles(imports):
    """The modules in circles, and those on a way from one circle to another; empty where there is no circle.

    They are what is left when every module that imports none of the others, or that none of them imports, is taken
    away, again and again.
    """
    left = set(imports)
    while True:
        imported = {other for module in left for other in imports[module] if other in left}
        importing = {module for module in left if imports[module] & left}
        if left == imported & importing:
            return left
        left = imported & importing


def test_no_import_closes_a_circle_not_even_inside_a_function(imports):
    assert len(imports) >= len(SOURCES)
    assert in_circles(imports) == set()


def test_a_circle_is_found_and_what_leads_to_it_is_not():
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"d"}}
    assert in_circles(imports) == {"b", "c"}
    assert in_circles({"a": {"b"}, "b": set()}) == set()


def test_an_import_inside_a_function_counts(imports):
    """Entry files import their driver only where their job begins; the graph must know it all the same."""
    assert "pipelines.stages.ingest.driver" in imports["pipelines.ingest"]


def test_processes_that_compute_nothing_with_torch_start_without_it():
    """Torch, diffusers and transformers take each process 5 s of a core and 0.4 GB."""
    started = (
        *("ingest.decode", "ingest.stage", "animate.dispatch", "animate.score_driver", "animate.score_worker"),
        "train.worker_mailbox",
    )
    code = (
        f"import sys, animatediff.data.ingest.seal, animatediff.sprites.scoring\nfrom importlib import import_module\n"
        f"for name in {started!r}: import_module('pipelines.stages.' + name)\n"
        "print({'torch', 'diffusers', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
