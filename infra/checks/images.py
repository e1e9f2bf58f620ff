"""Dockerfiles, and what they copy."""

import fnmatch
import re
from collections.abc import Iterator

from infra.checks.fault import Fault
from infra.checks.tools import run, tool
from infra.checks.tree import Tree

DOCKERFILES = ("infra/docker/*Dockerfile",)
PROJECT_IMAGE = "infra/docker/Dockerfile"
_INSTRUCTION = re.compile(r"(?P<word>[A-Z]+)\s+(?P<rest>.*)")


def instructions(tree: Tree, name: str) -> list[tuple[int, str, str]]:
    """Return a Dockerfile's instructions: line, word and rest, continued lines as one and comments left out."""
    found, begin, text = [], 0, ""
    for number, line in enumerate(tree.text(name).splitlines(), 1):
        if line.lstrip().startswith("#") or not (line.strip() or text):
            continue
        begin = begin if text else number
        text += line.rstrip("\\").strip() + " "
        if line.endswith("\\"):
            continue
        if match := _INSTRUCTION.match(text):
            found.append((begin, match["word"], match["rest"].strip()))
        text = ""
    return found


def hadolint(tree: Tree) -> Iterator[Fault]:
    """Check that hadolint finds no fault in a Dockerfile."""
    program = tool("hadolint")
    for name in tree.matching(*DOCKERFILES):
        done = run([program, "--no-color", str(tree.path(name))])
        for line in (done.stdout + done.stderr).splitlines():
            _, _, told = line.partition(f"{tree.path(name)}:")
            number, _, wrong = told.partition(" ")
            yield Fault(name, f"line {number}", wrong, "hadolint's wiki says how, by this number")


def image_user(tree: Tree) -> Iterator[Fault]:
    """Check that an image ends as a user that is not root, named by number: Kubernetes cannot tell otherwise."""
    for name in tree.matching(*DOCKERFILES):
        users = [(line, rest) for line, word, rest in instructions(tree, name) if word == "USER"]
        line, user = users[-1] if users else (1, "root")
        if not user.isdigit() or user == "0":
            yield Fault(name, f"line {line}", f"the image's user is {user}", "end with a USER of a number such as 1000")


def image_sources(tree: Tree) -> Iterator[Fault]:
    """Check that what an image copies is there, and `.dockerignore` lets it through."""
    lines = [line.strip() for line in tree.text(".dockerignore").splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    for line, word, rest in instructions(tree, PROJECT_IMAGE):
        if word != "COPY":
            continue
        *sources, _ = [part for part in rest.split() if not part.startswith("--")]
        for source in sources:
            if not tree.path(source).exists():
                yield Fault(PROJECT_IMAGE, f"line {line}", f"there is no {source}", "name what is there")
            elif not _is_sent(source, patterns):
                yield Fault(".dockerignore", "", f"{source} is not sent to the build", f"add !{source}")


def _is_sent(source: str, patterns: list[str]) -> bool:
    sent = True
    for pattern in patterns:
        if fnmatch.fnmatch(source, pattern.removeprefix("!")):
            sent = pattern.startswith("!")
    return sent


def image_labels(tree: Tree) -> Iterator[Fault]:
    """Check that the project's image says of which commit it is."""
    labels = " ".join(rest for _, word, rest in instructions(tree, PROJECT_IMAGE) if word == "LABEL")
    if "org.opencontainers.image.revision" not in labels:
        yield Fault(PROJECT_IMAGE, "", "it has no label of its commit", "LABEL org.opencontainers.image.revision")
