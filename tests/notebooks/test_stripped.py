"""What is in git of the notebooks: their cells, and nothing that a run has left in them."""

import re

import nbformat
import pytest

from tests.notebooks.execution import NOTEBOOKS

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@each_notebook
def test_a_notebook_has_no_outputs_and_no_counts(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    ran = [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert not ran, f"jupyter nbconvert --clear-output --inplace {path}"
    assert not [cell for cell in notebook.cells if cell.metadata]
    assert notebook.metadata.keys() <= {"kernelspec", "language_info"}


@each_notebook
def test_a_notebook_begins_with_its_title_and_says_why_before_each_part(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("# ")
    headings = [cell for cell in notebook.cells if re.search("^## ", cell.source, re.MULTILINE)]
    assert len(headings) >= 4


def test_the_readme_has_a_line_for_each():
    readme = NOTEBOOKS[0].with_name("README.md").read_text()
    assert re.findall(r"\]\((\w+\.ipynb)\)", readme) == [path.name for path in NOTEBOOKS]
