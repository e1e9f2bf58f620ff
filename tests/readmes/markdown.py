"""The project's READMEs, and what stands in them: fenced blocks, code spans, links, headings, commands.

Lists of files that `make files` writes are left out: their paths are told from their own folder.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("animatediff", "pipelines", "infra", "notebooks", "tests")
FILE_LIST = re.compile(r"(?<=<!-- files -->\n).*?(?=<!-- /files -->)", re.DOTALL)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A fenced block of a README."""

    readme: Path
    language: str
    """As the fence says it: `yaml`, `python`, `sh`, or empty."""
    text: str

    @property
    def title(self) -> str:
        """Return the file's name that a first line such as `# ingest.yaml: what it is` gives it, or nothing."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("# ").partition(":")[0].strip() if first.startswith("# ") else ""


def readmes() -> list[Path]:
    """Return all READMEs, the top one first."""
    below = (path for room in ROOMS for path in sorted((ROOT / room).rglob("README.md")))
    return [ROOT / "README.md", *below]


def name(readme: Path) -> str:
    """Return a README's path from the repository's root, to tell a test's case by."""
    return readme.relative_to(ROOT).as_posix()


def blocks(readme: Path, *languages: str) -> list[Block]:
    """Return the fenced blocks of some languages, or all."""
    found = (Block(readme, *match.groups()) for match in _FENCE.finditer(_written(readme)))
    return [block for block in found if block.language in languages or not languages]


def spans(readme: Path) -> list[str]:
    """Return the code spans of the text."""
    return _SPAN.findall(_prose(readme))


def links(readme: Path) -> list[str]:
    """Return the targets of links and pictures that lie in the repository: `path`, `path#anchor` or `#anchor`."""
    return [target for target in _LINK.findall(_prose(readme)) if "://" not in target]


def anchors(readme: Path) -> set[str]:
    """Return what a link may name behind `#`: the headings as GitHub spells them."""
    titles = re.findall(r"^#+ (.+)$", _prose(readme), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(readme: Path) -> Iterator[str]:
    """Yield the commands of the blocks to paste into a shell: joined where they end in a backslash, no comments."""
    for block in blocks(readme, "sh"):
        lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
        yield from filter(None, (line.partition(" #")[0].strip() for line in lines))


def _written(readme: Path) -> str:
    """Return what people wrote."""
    return FILE_LIST.sub("", readme.read_text())


def _prose(readme: Path) -> str:
    """Return the text without its fenced blocks."""
    return _FENCE.sub("", _written(readme))
