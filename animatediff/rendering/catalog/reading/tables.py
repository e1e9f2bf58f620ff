"""Tables that catalogs are written as: CSV, TSV, JSONL and Parquet to rows of what was given."""

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from animatediff import storage
from animatediff.config import name_hint
from animatediff.data.sources.files import opened, read_lines, suffix_of
from animatediff.data.sources.limits import MAX_CAPTION_CHARS
from animatediff.data.sources.tables.parquet_files import read_footer
from animatediff.data.sources.tables.parquet_pages import portions, read_columns
from animatediff.errors import UsageError, UserError
from animatediff.rendering.catalog.prompts.prompt_text import is_travel
from animatediff.uris import printable_uri
from animatediff.weights.identify.weights_slots import WEIGHTS_SLOTS, WeightsSlot

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Suffixes of files that are tables."""

_SHOWN_CHARS = 200  # of a name or a cell in a message
_TEXTS = ("prompt", "negative_prompt")  # the columns whose blanks are kept
_MAPPINGS = (
    *("context", "free_init", "second_pass", "travel", "controls", "images", "pia", "noise_schedule"),
    *("guidance_interval", "deep_cache"),
)
# A list of texts or mappings, or a mapping: prompts have brackets and braces of their own, such as `[day:night:0.5]`.
_JSON_PROMPTS = re.compile(r'\[\s*(\{\s*)?"|\[\s*\]$|\{\s*"')


class Row(NamedTuple):
    """A row of a table."""

    place: str
    """Such as `line 7`: for a person to find it."""
    values: dict[str, Any]
    """Cells by column, as the schema takes them; empty ones are left out."""


def read_rows(uri: str, columns: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of a table, in its order.

    Args:
        uri: its suffix says its format; CSV and JSONL may be compressed (`.csv.gz`). A CSV's first row says whether
            commas, semicolons or tabs part its cells; what is empty in it is no row.
        columns: those that it may have. In a text cell, low-rank files are `path:scale;path:scale` (the scale may be
            left out), embeddings `path;path`, seeds `1;2`, and each of them, `prompts`, `context` and `travel` may be
            JSON; a prompt is JSON where it gives texts by frame.

    Raises:
        UsageError: it is missing, damaged or of no such format, has another column, or a cell cannot be read.
    """
    known = list(columns)
    read = _READERS.get(suffix_of(uri))
    if read is None:
        raise UsageError(f"{printable_uri(uri)} is no table: a name that ends in {', '.join(SUFFIXES)} is needed")
    try:
        if not storage.exists(uri):
            raise UsageError(f"there is no file {printable_uri(uri)}")
        for place, cells in read(uri, known):
            yield Row(place, _given(cells, f"{printable_uri(uri)}, {place}"))
    except UserError as error:
        raise UsageError(str(error)) from error


def _given(cells: Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
    values = {}
    for name, cell in cells:
        if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):  # null, NaN, blank
            continue
        try:
            values[name] = _value(name, _plain(cell)) if isinstance(cell, str) else _plain(cell)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}, column {name!r}: {error} (got {_shown(cell)})") from error
    return values


def _shown(value: Any) -> str:
    text = repr(value[:_SHOWN_CHARS] if isinstance(value, str | list) else value)
    return text if len(text) <= _SHOWN_CHARS + 2 else f"{text[:_SHOWN_CHARS]}..."


def _value(name: str, text: str) -> Any:
    if name in _TEXTS:
        return _plain(json.loads(text)) if is_travel(text) else text
    text = text.strip()
    if name in _MAPPINGS or (name in _LISTS and _is_json(name, text)):
        return _plain(json.loads(text))
    return _LISTS[name](text) if name in _LISTS else text


def _is_json(name: str, text: str) -> bool:
    return bool(_JSON_PROMPTS.match(text)) if name == "prompts" else text.startswith(("[", "{"))


def _plain(value: Any) -> Any:
    """Return what JSON can say, too: Parquet has more types, and a struct of it has all its fields, given or not."""
    if isinstance(value, str):
        if len(value) > MAX_CAPTION_CHARS:
            raise ValueError(f"a text of {len(value)} characters, {MAX_CAPTION_CHARS} are allowed")
        value.encode()  # JSON's escapes can be halves of characters, which nothing can write
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if not isinstance(value, int | float | None):
        raise ValueError(f"a text, a number, a list or a mapping is needed, not {type(value).__name__}")
    return value


def _scaled_file(text: str) -> dict[str, Any]:
    """`path`, or `path:scale`; a URI has colons of its own."""
    path, _, scale = text.rpartition(":")
    try:
        return {"path": path.strip(), "scale": float(scale)} if path else _file(text)
    except ValueError:
        return _file(text)


def _file(text: str) -> dict[str, Any]:
    return {"path": text.strip()}


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _files(slot: WeightsSlot, text: str) -> Any:
    read = _scaled_file if slot.has_scale else _file
    return [read(part) for part in _parts(text)] if slot.is_list else read(text)


_LISTS: dict[str, Callable[[str], Any]] = {
    **{
        field: partial(_files, slot)
        for field, slot in WEIGHTS_SLOTS.items()
        if (slot.is_list or slot.has_scale) and field not in _MAPPINGS
    },
    "seeds": _parts,
    "prompts": lambda text: [text],
}

Cells = Iterator[tuple[str, Iterable[tuple[str, Any]]]]
"""Each row's place, and its cells by column."""


def _read_csv(uri: str, known: list[str]) -> Cells:
    lines = _decoded(uri)
    header = next(lines, "")
    # Columns' names have none of these; Excel takes a semicolon where the comma parts decimals.
    delimiter = next((character for character in header if character in ",;\t"), ",")
    # strict: a quote that is never closed would swallow all that follows it.
    reader = csv.reader(chain([header], lines), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        names = [name.strip() for name in _without_blanks(next(reader, []))]
        _check_columns(names, known, uri)
        for cells in reader:
            row = _without_blanks(cells) if len(cells) > len(names) else cells
            if len(row) > len(names):
                raise UsageError(
                    f"{printable_uri(uri)}, line {reader.line_num} has {len(row)} cells for {len(names)} columns: "
                    "put a text with the delimiter in it into quotes"
                )
            if any(map(str.strip, row)):
                yield f"line {reader.line_num}", zip(names, row, strict=False)
    except csv.Error as error:
        raise UsageError(f"{printable_uri(uri)}, line {reader.line_num}: no CSV in UTF-8: {error}") from error


def _without_blanks(cells: list[str]) -> list[str]:
    """Cells as far as anything stands in them: spreadsheets write empty columns, too."""
    last = max((number for number, cell in enumerate(cells, 1) if cell.strip()), default=0)
    return cells[:last]


def _decoded(uri: str) -> Iterator[str]:
    for number, line in enumerate(read_lines(uri), 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{printable_uri(uri)}, line {number}: no CSV in UTF-8: {error}; save it as UTF-8"
            ) from error


def _read_jsonl(uri: str, known: list[str]) -> Cells:
    for number, line in enumerate(read_lines(uri), 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            reason = f"no JSON: {error}; each line needs a whole object"
            raise UsageError(f"{printable_uri(uri)}, line {number}: {reason}") from error
        if not isinstance(row, dict):
            raise UsageError(f"{printable_uri(uri)}, line {number}: a JSON object is needed, not {_shown(row)}")
        _check_columns(row.keys(), known, f"{uri}, line {number}")
        yield f"line {number}", row.items()


def _read_parquet(uri: str, known: list[str]) -> Cells:
    with opened(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
        except (pa.ArrowInvalid, ValueError) as error:
            raise UsageError(f"{printable_uri(uri)} is no Parquet file: {' '.join(str(error).split())}") from error
        names = [name for name in parquet.schema_arrow.names if not name.startswith("__index_level_")]  # pandas' own
        _check_columns(names, known, uri)
        number = 0
        try:
            for batch in _batches(parquet, file, names, uri):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield f"row {number}", zip(names, row, strict=True)
        except (pa.ArrowException, ValueError, OverflowError, OSError) as error:  # a damaged page, a text not in UTF-8
            reason = " ".join(str(error).split())
            raise UsageError(f"{printable_uri(uri)} cannot be read beyond row {number}: {reason}") from error


def _batches(parquet: pq.ParquetFile, file: Any, names: list[str], uri: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows, as many at once as little memory holds: a file of kilobytes can repeat one long text for ever."""
    for group, columns in enumerate(read_columns(read_footer(file, uri), set(names))):
        rows = portions(file, columns, set(names), uri, keeps_dictionaries=False).rows
        yield from parquet.iter_batches(rows, row_groups=[group], columns=names, use_threads=False)


def _check_columns(names: Collection[str], known: list[str], uri: str) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"{printable_uri(uri)}: unknown column {name[:_SHOWN_CHARS]!r}, {name_hint(name, known)}")
    if len(set(names)) < len(names):
        double = next(name for name in names if list(names).count(name) > 1)
        raise UsageError(f"{printable_uri(uri)}: several columns are named {double!r}")


_READERS: dict[str, Callable[[str, list[str]], Cells]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}
