"""The READMEs' lists of files are those that `make files` writes, and no module is in none or in two."""

from collections import Counter

import pytest

from tests.readmes import files, markdown

LISTS = [readme for readme in markdown.readmes() if files.has_list(readme)]


@pytest.mark.parametrize("readme", LISTS, ids=markdown.name)
def test_a_list_is_up_to_date(readme):
    assert readme.read_text() == files.with_list(readme), "run `make files`"


def test_every_module_is_in_one_list():
    listed = Counter(module for readme in LISTS for module in files.modules(readme.parent))
    there = {
        path for room in files.PACKAGES for path in (markdown.ROOT / room).rglob("*.py") if path.name != "__init__.py"
    }
    assert listed == Counter(there)


def test_the_order_of_the_flow_names_what_is_there():
    for folder, first in files.ORDER.items():
        assert set(first) <= {path.name for path in (markdown.ROOT / folder).iterdir()}


def test_every_folder_and_module_says_what_it_is():
    for readme in LISTS:
        for line in files.file_list(readme.parent).splitlines():
            assert len(line.split(maxsplit=1)) == 2, line
