"""Catalogs as files: a YAML, with tables of entries and of prompts beside it where there are many; or one table."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from animatediff import storage
from animatediff.config import load
from animatediff.data.sources.files import read_lines, suffix_of
from animatediff.errors import UsageError, UserError
from animatediff.rendering.catalog.canonical_json import sha256
from animatediff.rendering.catalog.catalog import Catalog
from animatediff.rendering.catalog.entries import Entry, Prompt, SeededRenderSettings
from animatediff.rendering.catalog.prompts.prompt_text import are_texts_by_frame
from animatediff.rendering.catalog.reading.row_validation import RowValidator
from animatediff.rendering.catalog.reading.tables import SUFFIXES, Row, read_rows
from animatediff.rendering.catalog.unvalidated_copies import unvalidated_copy
from animatediff.uris import Uri, printable_uri
from animatediff.weights.identify.weights_slots import WEIGHTS_SLOTS

_YAML_SUFFIXES = (".yaml", ".yml", ".json", "")
_PROMPT_COLUMNS = {"prompt", "prompts", *SeededRenderSettings.model_fields}
_ENTRY_COLUMNS = ["prompt", *Entry.model_fields]


class CatalogFile(Catalog):
    """What a catalog's YAML file may say."""

    entries: tuple[Entry, ...] = ()
    """Entries; those of `entries_uri` come after them."""
    entries_uri: Uri | None = Field(None, min_length=1)
    """A table of entries (CSV, TSV, JSONL, Parquet), from the YAML's folder. Its columns are the fields of an entry;
    rows with one name and the same weights are one model with several prompts."""
    prompts_uri: Uri | None = Field(None, min_length=1)
    """Prompts for every entry that names none of its own: a table, or a `.txt` with one a line; from the YAML's
    folder."""


def read(uri: str) -> Catalog:
    """Read a catalog, with the tables of entries and of prompts that it names.

    Args:
        uri: a YAML file, or a table of entries whose columns `base` and `motion_module` are filled.

    Raises:
        UsageError: a file is missing or does not fit the schema; the line names file, row and column.
    """
    suffix = suffix_of(uri)
    if suffix in SUFFIXES:
        return _of_table(uri)
    if suffix not in _YAML_SUFFIXES:
        raise UsageError(
            f"{printable_uri(uri)} is no catalog: a YAML file or a table ({', '.join(SUFFIXES)}) is needed"
        )
    file = load(CatalogFile, uri)
    entries, prompts = file.entries, file.prompts
    if file.entries_uri is not None:
        entries += tuple(_read_entries(_beside(uri, file.entries_uri)))
    if file.prompts_uri is not None:
        prompts += tuple(_read_prompts(_beside(uri, file.prompts_uri)))
    if not entries:
        raise UsageError(f"{printable_uri(uri)} has no entries: list them as `entries`, or in a table as `entries_uri`")
    shared = {name: getattr(file, name) for name in file.model_fields_set & Catalog.model_fields.keys()}
    return Catalog.model_validate(shared | {"entries": entries, "prompts": prompts})


def _beside(uri: str, name: str) -> str:
    return name if "://" in name or name.startswith(("/", "~")) else storage.beside(uri, name)


def _of_table(uri: str) -> Catalog:
    entries = tuple(_read_entries(uri))
    if not entries:
        raise UsageError(f"{printable_uri(uri)} has no rows")
    missing = [
        slot.field
        for slot in WEIGHTS_SLOTS.values()
        if slot.is_needed and not any(getattr(entry, slot.field) for entry in entries)
    ]
    if missing:
        columns = f"column{'s' if len(missing) > 1 else ''} {' and '.join(missing)}"
        raise UsageError(
            f"{printable_uri(uri)} has no {columns}: add what is missing, or name the table as `entries_uri` in a YAML "
            "file that says it for all"
        )
    return Catalog(entries=entries)


def _read_entries(uri: str) -> Iterator[Entry]:
    """Yield a table's entries, in the order of their first rows.

    One for each name and weights, and each row without prompt.

    A row's settings go to its prompt: so one row's problem is no other's.
    """
    rows = RowValidator(uri)
    found: dict[str, tuple[Entry | None, list[Prompt | None]]] = {}
    for row in read_rows(uri, _ENTRY_COLUMNS):
        settings = {name: row.values.pop(name) for name in _PROMPT_COLUMNS & row.values.keys()}
        texts = _texts(settings, row, uri)
        key = sha256(row.values) if texts else row.place
        if key not in found:
            found[key] = rows.validated(Entry, "name", row.values if texts else row.values | settings, row.place), []
        for text in texts:
            is_whole = isinstance(text, dict) and not are_texts_by_frame(text)
            values = settings | (text if is_whole else {"prompt": text})
            found[key][1].append(rows.validated(Prompt, "prompt", values, row.place))
    rows.check()
    for entry, prompts in found.values():
        if entry is not None:
            yield unvalidated_copy(entry, prompts=tuple(prompts)) if prompts else entry


def _texts(settings: dict[str, Any], row: Row, uri: str) -> list[Any]:
    prompts = settings.pop("prompts", [])
    if not isinstance(prompts, list):
        raise UsageError(f"{printable_uri(uri)}, {row.place}, column 'prompts': a list is needed (got {prompts!r})")
    return [{"prompt": settings.pop("prompt")}, *prompts] if "prompt" in settings else prompts


def _read_prompts(uri: str) -> Iterator[Prompt]:
    if suffix_of(uri) == ".txt":
        yield from _read_text(uri)
        return
    rows = RowValidator(uri)
    for row in read_rows(uri, Prompt.model_fields):
        if prompt := rows.validated(Prompt, "prompt", row.values, row.place):
            yield prompt
    rows.check()


def _read_text(uri: str) -> Iterator[Prompt]:
    try:
        if not storage.exists(uri):
            raise UsageError(f"there is no file {printable_uri(uri)}")
        lines = (line.decode().strip() for line in read_lines(uri))
        yield from (Prompt(prompt=line) for line in lines if line)
    except UnicodeDecodeError as error:
        raise UsageError(f"{printable_uri(uri)} is no text in UTF-8: {error}; save it as UTF-8") from error
    except UserError as error:
        raise UsageError(str(error)) from error
