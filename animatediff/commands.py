"""The `animatediff` command: what weights files, datasets and rendered clips are, and weights in another layout."""

import io
import json as json_format
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import tyro

from animatediff.commands_dataset import show, verify
from animatediff.config import hide_in_arguments
from animatediff.errors import UsageError, UserError
from animatediff.weights import textual_inversion
from animatediff.weights.identify.messages import name
from animatediff.weights.identify.metadata import printable
from animatediff.weights.identify.weights_file import WeightsIdentity, identify_uri

_COLUMNS = ("family", "version", "base", "rank", "alpha", "dtype", "parameters", "sha256", "file")
_RIGHT_ALIGNED = {"parameters"}
_SHOWN_METADATA = ("word in prompts", "title", "author", "licence", "trigger words")


class _Unreadable(NamedTuple):
    uri: str
    error: str


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; what its user can mend ends it with one line instead of a traceback.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Raises:
        SystemExit: a file cannot be used (1), or the command line is wrong (2); `--help` (0).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a title in any script must not end an ASCII terminal's command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            {"identify": identify, "convert": convert, "show": show, "verify": verify, "metadata": metadata},
            prog="animatediff",
            description=__doc__,
            args=hide_in_arguments(sys.argv[1:] if argv is None else argv),
        )
    except UserError as error:
        sys.stderr.write(f"animatediff: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code)


def identify(
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE [FILE ...]")],
    *,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Tell what weights files are, from their content.

    Args:
        files: files or model folders, local or at URIs.
        json: a JSON list instead of a table; sizes are numbers and nothing is left out.

    Returns:
        1 if a file could not be read, 0 otherwise.

    Raises:
        UsageError: no file is named.
    """
    if not files:
        raise UsageError("name the files: animatediff identify FILE [FILE ...]")
    found = [_identify(uri) for uri in files]
    if json:
        rows = [item.model_dump() if isinstance(item, WeightsIdentity) else item._asdict() for item in found]
        _say(json_format.dumps(rows, indent=2))
    else:
        _say("\n".join(_table(found)))
    return int(any(isinstance(item, _Unreadable) for item in found))


def convert(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")],
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    *,
    to: Literal["official", "diffusers"],
) -> int:
    """Write a motion module, MotionLoRA, domain adapter or single-file checkpoint in another layout.

    OUT is a .safetensors file; of a motion module or a checkpoint to diffusers it is a folder.

    Args:
        source: the file or folder to convert, local or at a URI.
        target: what to write; nothing may be there yet.
        to: whose layout to write.
    """
    # Its readers import diffusers and transformers, which takes seconds that `identify` does not need.
    from animatediff.weights.convert import convert as convert_file

    written = convert_file(source, target, to=to)
    _say(f"wrote {target}: {name(written)}, {written.layout} layout, {written.parameters:,} parameters")
    return 0


def metadata(file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]) -> int:
    """Tell what a rendered clip was made from, as it says itself: a JSON object.

    Args:
        file: an MP4, GIF, WebP, PNG or latents file of a catalog, local or at a URI.

    Returns:
        1 if it says nothing, 0 otherwise.

    Raises:
        UserError: there is no such file, or it is none of these.
    """
    # Torch takes seconds that `identify` does not need.
    from animatediff.rendering.outputs import read_metadata

    try:
        found = read_metadata(file)
    except FileNotFoundError as error:
        raise UserError(f"there is no {file}") from error
    shown = {key: _as_object(text) for key, text in found.items()}
    _say(json_format.dumps(shown, indent=2, ensure_ascii=False))
    return int(not found)


def _as_object(text: str) -> object:
    """Return what a text says that is a JSON object, such as a clip's settings with its controls; else the text."""
    try:
        value = json_format.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def _identify(uri: str) -> WeightsIdentity | _Unreadable:
    try:
        found = identify_uri(uri)
        if found.family != "textual_inversion":
            return found
        word = {"word in prompts": textual_inversion.read(uri).token}
        return found.model_copy(update={"metadata": word | found.metadata})
    except UserError as error:
        return _Unreadable(uri, printable(str(error), 500))


def _table(found: Sequence[WeightsIdentity | _Unreadable]) -> list[str]:
    rows = [_COLUMNS, *(_row(item) for item in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    details = [[], *(_details(item) for item in found)]
    lines = []
    for row, below in zip(rows, details, strict=True):
        cells = (
            cell.rjust(width) if column in _RIGHT_ALIGNED else cell.ljust(width)
            for column, cell, width in zip(_COLUMNS, row, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
        lines += [f"    {label}: {text}" for label, text in below]
    return lines


def _row(item: WeightsIdentity | _Unreadable) -> tuple[str, ...]:
    if isinstance(item, _Unreadable):
        return ("unreadable", *("-" for _ in _COLUMNS[2:]), item.uri)
    base = item.base or (f"unknown (text {item.text_width} wide)" if item.text_width else None)
    cells = (item.family, item.version, base, item.rank, item.alpha, item.dtype, f"{item.parameters:,}")
    return (*(cell or "-" for cell in cells), item.sha256[:12] if item.sha256 else "-", item.uri)


def _details(item: WeightsIdentity | _Unreadable) -> list[tuple[str, str]]:
    if isinstance(item, _Unreadable):
        return [("error", item.error)]
    details = [(label, item.metadata[label]) for label in _SHOWN_METADATA if label in item.metadata]
    return [*details, ("note", item.note)] if item.note else details


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
