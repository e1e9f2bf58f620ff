"""What the READMEs point to is there: links, paths, modules, functions, commands."""

import importlib.util
import re

import pytest

from animatediff import commands
from tests.readmes import markdown
from tests.readmes.markdown import ROOMS, ROOT

READMES = markdown.readmes()
_PATH = re.compile(r"(?:[\w.*-]+/)+[\w.*-]*|[\w-]+\.py\b")
_PATH_OF_A_ROOM = re.compile(rf"(?<![\w/.:-])(?:{'|'.join(ROOMS)})/[\w./-]+")
_DOTTED = re.compile(rf"(?<![\w/.])(?:{'|'.join(ROOMS)})(?:\.\w+)+(?::\w+)?")
each_readme = pytest.mark.parametrize("readme", READMES, ids=markdown.name)


def paths_in_text(readme):
    """What code spans name in the repository; other paths are a user's or a job's output."""
    found = {path for span in markdown.spans(readme) for path in _PATH.findall(re.sub(r"\w+://\S+", "", span))}
    return {path for path in found if path.endswith(".py") or path.partition("/")[0] in ROOMS}


def paths_in_blocks(readme):
    return {path for block in markdown.blocks(readme) for path in _PATH_OF_A_ROOM.findall(block.text)}


def names(readme):
    """Modules, and functions in them, with their packages."""
    texts = [*markdown.spans(readme), *(block.text for block in markdown.blocks(readme))]
    return {name for text in texts for name in _DOTTED.findall(text)}


def words_after(pattern):
    """What follows `pattern` in the commands and code spans of all READMEs."""
    lines = (line for readme in READMES for line in [*markdown.commands(readme), *markdown.spans(readme)])
    return {word for line in lines for word in re.findall(pattern, line)}


def test_the_readmes_name_paths_and_modules():
    assert "pipelines/configs/recipes" in paths_in_text(ROOT / "pipelines/README.md")
    assert "pipelines/ingest.py" in paths_in_blocks(ROOT / "README.md")
    assert "animatediff.sprites.scoring:score" in names(ROOT / "README.md")


@each_readme
def test_links_lead_somewhere(readme):
    for link in markdown.links(readme):
        path, _, anchor = link.partition("#")
        target = (readme.parent / path).resolve()
        assert target.exists(), link
        assert not anchor or anchor in markdown.anchors(target if path else readme), link


@each_readme
def test_paths_exist(readme):
    own = [folder for folder in readme.parents if folder.is_relative_to(ROOT)]  # `scenes/world.py` of its own room
    assert not [path for path in paths_in_text(readme) if not any((folder / path).exists() for folder in own)]
    assert not [path for path in paths_in_blocks(readme) if not (ROOT / path).exists()]


@each_readme
def test_modules_and_functions_exist(readme):
    for name in sorted(names(readme)):
        module, _, function = name.partition(":")
        assert not function or hasattr(importlib.import_module(module), function), name
        assert function or importlib.util.find_spec(module), name


def test_the_animatediff_command_has_the_subcommands_that_are_named():
    named = words_after(r"^(?:\.venv/bin/)?animatediff (\w+)")
    assert named == {"convert", "identify", "metadata", "show", "verify"}
    assert all(hasattr(commands, name) for name in named)


def test_make_has_the_targets_that_are_named_and_all_are_named():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert words_after(r"^make (\w+)") == targets - {"clean"}


def test_the_top_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 12_000
