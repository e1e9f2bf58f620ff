"""The READMEs' lists of files, made from the first lines of the modules' docstrings: `make files`.

A README with a list has the line `<!-- files -->` and below it `<!-- /files -->`. A module stands in the nearest README
with a list above it, in the order in which a video's way through the jobs meets the rooms.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.readmes.markdown import FILE_LIST, ROOT, name, readmes

PACKAGES = ("animatediff", "pipelines")
ORDER = {
    "pipelines": (
        *("command.py", "ingest.py", "train.py", "animate.py", "score.py", "settings.py", "demo.py", "embedded.py"),
        *("stages", "outputs", "cluster", "tracking", "terminal"),
    ),
    "pipelines/stages": ("ingest", "train", "animate"),
    "animatediff": ("data", "weights", "models", "diffusion", "training", "rendering", "sprites", "storage"),
    "animatediff/data": ("sources", "decoding", "clips", "scoring", "ingest", "loading", "inspection"),
    "animatediff/weights": ("identify", "reading", "layouts", "lora"),
    "animatediff/rendering": ("catalog", "checks", "results"),
    "animatediff/sprites": ("scenes", "readings", "models"),
}
"""What a folder holds in the order of the flow; what is not named comes in the order of its letters."""


def main() -> None:
    """Write all lists anew."""
    for readme in readmes():
        text = readme.read_text()
        if (written := with_list(readme)) != text:
            readme.write_text(written)
            sys.stdout.write(f"wrote the list of files in {name(readme)}\n")


def with_list(readme: Path) -> str:
    """Return the text of a README with the list of files as it should be; without a place for one, as it is."""
    return FILE_LIST.sub(lambda _: f"\n```\n{file_list(readme.parent)}\n```\n\n", readme.read_text())


def has_list(readme: Path) -> bool:
    """Whether a README has a place for a list."""
    return FILE_LIST.search(readme.read_text()) is not None


def file_list(folder: Path) -> str:
    """Return the modules of a folder with what their docstrings say first, a room after the other."""
    return "\n".join(line for room in _rooms(folder) for line in _room(room))


def modules(folder: Path) -> list[Path]:
    """Return the modules that the list of a folder's README names."""
    return [module for room in _rooms(folder) for module in _modules(room)]


def _rooms(folder: Path) -> Iterator[Path]:
    """Yield a folder and what lies below it, but for what has a list in a README of its own."""
    yield folder
    for room in (path for path in _in_order(folder) if (path / "__init__.py").exists()):
        if not (room / "README.md").exists() or not has_list(room / "README.md"):
            yield from _rooms(room)


def _room(room: Path) -> list[str]:
    lines = [(f"{room.relative_to(ROOT).as_posix()}/", _first_line(room / "__init__.py"))]
    lines += [(f"  {module.name}", _first_line(module)) for module in _modules(room)]
    return [f"{place:<26} {line}".rstrip() for place, line in lines]


def _modules(room: Path) -> list[Path]:
    return [path for path in _in_order(room) if path.suffix == ".py" and path.name != "__init__.py"]


def _in_order(folder: Path) -> list[Path]:
    first = ORDER.get(folder.relative_to(ROOT).as_posix(), ())
    places = {name: place for place, name in enumerate(first)}
    return sorted(folder.iterdir(), key=lambda path: (places.get(path.name, len(places)), path.name))


def _first_line(module: Path) -> str:
    return (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
