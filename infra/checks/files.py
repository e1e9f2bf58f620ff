"""Every file: that it is listed, and, if it is YAML, that it can be read and is written as the others are."""

import json
from collections.abc import Iterator

import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from infra.checks.fault import Fault
from infra.checks.tree import Tree

README = "infra/README.md"
# Listed as folders.
_FOLDERS = ("checks/", "monitoring/")
_STYLE = {
    "extends": "default",
    "rules": {
        # A document begins where the file does.
        "document-start": "disable",
        "line-length": {"max": 140},
        "braces": {"max-spaces-inside": 0},
        "comments": {"min-spaces-from-content": 1},
        "comments-indentation": "disable",
        "truthy": {"allowed-values": ["true", "false"]},
    },
}


def yaml_syntax(tree: Tree) -> Iterator[Fault]:
    """Check that a YAML file can be parsed, and no key stands in it twice."""
    for name in tree.yaml_files:
        try:
            list(yaml.load_all(tree.text(name), Loader=yaml.CSafeLoader))
        except yaml.YAMLError as error:
            wrong = " ".join(str(error).replace('in "<unicode string>", ', "").split())
            yield Fault(name, "", wrong, "mend the YAML there")


def yaml_style(tree: Tree) -> Iterator[Fault]:
    """Check that yamllint finds no fault in a YAML file."""
    config = YamlLintConfig(json.dumps(_STYLE))
    for name in tree.yaml_files:
        for problem in linter.run(tree.text(name), config):
            yield Fault(name, f"line {problem.line}", str(problem.desc), f"yamllint's rule {problem.rule} says how")


def listed_files(tree: Tree) -> Iterator[Fault]:
    """Check that each file of infra/ is listed in its README, by its path from there."""
    text = tree.text(README)
    for name in tree.files:
        path = name.removeprefix("infra/")
        if name != README and not path.startswith(_FOLDERS) and f"`{path}`" not in text:
            yield Fault(README, "", f"`{path}` is not listed", "add a line with the command that uses it")
