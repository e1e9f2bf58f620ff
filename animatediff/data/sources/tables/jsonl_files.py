"""JSONL tables: one JSON object a line."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from animatediff.data.sources.files import read_text_lines, root_of
from animatediff.data.sources.limits import MAX_LINE_BYTES
from animatediff.data.sources.spec import SourceConfig, SourceVideo
from animatediff.data.sources.tables.columns import Table, map_columns
from animatediff.data.sources.tables.json_objects import parse_json, require_once

_LOOK_AHEAD = 1000

Row = tuple[int, dict[str, Any] | str]
"""Number of the line, and its object, or why there is none."""


def read_jsonl(uri: str, source: SourceConfig) -> Iterator[SourceVideo]:
    """Yield the videos of a JSONL; a line that holds no object is a video without an id, whose URI names the line.

    Args:
        uri: the file.
        source: its columns (keys, at the objects' top level) and videos.

    Raises:
        UserError: the file cannot be read, or none of its first lines (1,000, or 8 MB) has a key that is needed.
    """
    rows = _read_rows(uri, source.encoding)
    first: list[Row] = []
    ahead = 0
    for number, row, num_chars in rows:
        first.append((number, row))
        ahead += num_chars
        if len(first) == _LOOK_AHEAD or ahead > MAX_LINE_BYTES:
            break
    objects = [row for _, row in first if isinstance(row, dict)]
    if not first:
        return
    # Keys of null values are often left out: one object alone does not tell the columns.
    mapping = map_columns(list(dict.fromkeys(chain.from_iterable(objects))), source.columns, uri)
    table = Table.of(source, uri, "line", mapping, source.videos_uri or root_of(uri))
    for number, row in chain(first, ((number, row) for number, row, _ in rows)):
        yield table.unreadable(number, row) if isinstance(row, str) else _video(table, number, row)


def _read_rows(uri: str, encoding: str | None) -> Iterator[tuple[int, dict[str, Any] | str, int]]:
    """Yield the rows, and the characters of their lines."""
    for number, line in enumerate(read_text_lines(uri, encoding), 1):
        if isinstance(line, ValueError):
            yield number, f"cannot be read: {line}", 0
        elif line and not line.isspace():
            yield number, _parse(line), len(line)


def _parse(line: str) -> dict[str, Any] | str:
    try:
        value = parse_json(line)
    except ValueError as error:
        return f"is no JSON: {error}"
    return value if isinstance(value, dict) else "is no JSON object"


def _video(table: Table, number: int, row: dict[str, Any]) -> SourceVideo:
    mapping = table.mapping
    try:
        for key in (mapping.id, mapping.video, mapping.caption):
            require_once(row, key)
    except ValueError as error:
        return table.unreadable(number, str(error))
    name = row.get(mapping.id) if mapping.id is not None else None
    return table.video(number, row.get(mapping.video), row.get(mapping.caption), name)
