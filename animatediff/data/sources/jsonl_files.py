"""JSONL tables: one JSON object a line."""

import json
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from animatediff.data.sources.files import read_lines, root_of
from animatediff.data.sources.spec import SourceConfig, SourceVideo
from animatediff.data.sources.tables import Mapping, Table, map_columns

_LOOK_AHEAD = 1000

Row = tuple[int, dict[str, Any] | None]
"""Number of the line, and its object; None where there is none."""


def read_jsonl(uri: str, source: SourceConfig) -> Iterator[SourceVideo]:
    """The videos of a JSONL; a line that holds no object is a video without an id, whose URI names the line.

    Args:
        uri: the file.
        source: its columns (keys, at the objects' top level) and videos.

    Raises:
        UserError: the file cannot be read, or none of its first 1,000 lines has a key that is needed.
    """
    rows = _read_rows(uri)
    first = list(islice(rows, _LOOK_AHEAD))
    objects = [row for _, row in first if row is not None]
    if not first:
        return
    # Keys of null values are often left out: one object alone does not tell the columns.
    mapping = map_columns(list(dict.fromkeys(chain.from_iterable(objects))), source.columns, uri)
    table = Table(uri, (source.videos_uri or root_of(uri)).rstrip("/"), "line")
    for number, row in chain(first, rows):
        yield SourceVideo("", table.place(number), "") if row is None else _video(table, mapping, number, row)


def _read_rows(uri: str) -> Iterator[Row]:
    for number, line in enumerate(read_lines(uri), 1):
        if not line.isspace():
            yield number, _parse(line)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested without end
        return None
    return value if isinstance(value, dict) else None


def _video(table: Table, mapping: Mapping, number: int, row: dict[str, Any]) -> SourceVideo:
    has_ids = mapping.id is not None
    name = row.get(mapping.id) if mapping.id is not None else None
    return table.video(number, row.get(mapping.video), row.get(mapping.caption), name, has_ids=has_ids)
