"""What became of the items of a catalog: one JSON file each, written when its clip is there, and a table of all.

`items/{digest}.json` is the truth; a repeated slice, job or command renders only what has none. The table,
`results.parquet`, is what people read, and spares the next run reading the files of clips that are older than it.
"""

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from animatediff import checked_json, storage
from animatediff.errors import UserError, printed
from animatediff.rendering.catalog import Item, Result

logger = logging.getLogger(__name__)

TABLE = "results.parquet"
NO_RESULT = "no result: nothing of it is under items/, and no worker has said why; run the animate job again"
_NO_CLIP = "its clip is gone or damaged; run the animate job again"
_CHUNK = 2000
T = TypeVar("T")
# Object stores tell the time of a change in whole seconds.
_CLOCK_S = 2.0

_STRINGS = pa.map_(pa.string(), pa.string())
_NUMBERS = pa.map_(pa.string(), pa.float64())
_SIZES = pa.map_(pa.string(), pa.int64())
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("digest", "entry", "model", "prompt", "negative_prompt")),
        *((name, pa.int64()) for name in ("seed", "priority", "num_inference_steps", "clip_skip")),
        *((name, pa.string()) for name in ("sampler", "timestep_spacing")),
        *((name, pa.float64()) for name in ("guidance_scale", "guidance_rescale")),
        *((name, pa.int64()) for name in ("num_frames", "width", "height")),
        ("fps", pa.float64()),
        ("context", pa.struct([("length", pa.int64()), ("overlap", pa.int64())])),
        ("loop", pa.bool_()),
        *((name, pa.string()) for name in ("status", "error", "warning")),
        ("attempts", pa.int64()),
        ("uri", pa.string()),
        *((name, _STRINGS) for name in ("files", "sha256", "model_hashes", "versions")),
        ("num_bytes", _SIZES),
        *((name, _NUMBERS) for name in ("seconds", "scores")),
        *((name, pa.string()) for name in ("scored_by", "score_error")),
    ]
)
_MAPS = [field.name for field in _SCHEMA if pa.types.is_map(field.type)]


class Ledger:
    """The items' outcomes under an output folder.

    Args:
        output_uri: the folder.
        digests: the items that are asked about.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """

    def __init__(self, output_uri: str, digests: Collection[str]) -> None:
        self._output_uri = output_uri
        # Before its content: what is written in between is newer than either.
        made = storage.list_times(output_uri).get(TABLE, 0.0)
        # The bytes are kept, as the rows' numbers count in them and another table may take their place.
        self._content = _read_content(output_uri)
        self._scanned = _parse(self._content, ["digest", "status", "files", "num_bytes"])
        written = storage.list_times(storage.join(output_uri, "items"))
        self._clips = storage.list_sizes(storage.join(output_uri, "clips"))
        self._asked = frozenset(digests)
        rows = zip(self._scanned["digest"].to_pylist(), self._scanned["status"].to_pylist(), strict=True)
        # A row that has no clip may have been written before its item was: only the item's file tells.
        self._rows = {
            digest: row
            for row, (digest, status) in enumerate(rows)
            if status == "ok" and digest in self._asked and written.get(f"{digest}.json", math.inf) < made - _CLOCK_S
        }
        self._written = self._among(written)
        self._errors: dict[str, str] = {}
        self.no_result = NO_RESULT
        """What is told of an item of which nothing is known."""

    @cached_property
    def _table(self) -> pa.Table:
        """The scanned rows with all columns."""
        return _parse(self._content)

    def _among(self, names: Collection[str]) -> set[str]:
        return {digest for digest in self._asked if f"{digest}.json" in names}

    def finished(self, formats: Collection[str] = ()) -> set[str]:
        """Digests whose clips are there whole, in these formats at least."""
        batches = self._scanned.take(_indices(self._rows.values())).to_batches(_CHUNK)
        rows = (row for batch in batches for row in batch.to_pylist())
        kept = {
            row["digest"]
            for row in rows
            if self._is_there(row["status"], dict(row["files"]), dict(row["num_bytes"] or ()), formats)
        }
        read = (result for result in self._read(self._written - self._rows.keys()) if result)
        return kept | {
            result.digest for result in read if self._is_there(result.status, result.files, result.num_bytes, formats)
        }

    def forget(self, digests: Iterable[str]) -> None:
        """Delete what is known of items that are to be rendered (again): a file then says that it was done since."""
        forgotten = set(digests)
        storage.delete_many([item_uri(self._output_uri, digest) for digest in forgotten & self._written])
        self._written -= forgotten
        for digest in forgotten:
            self._rows.pop(digest, None)

    def look_again(self) -> None:
        """Find what was written since, also by workers that did not live to tell.

        Raises:
            UserError: the storage cannot be reached or refuses access.
        """
        self._written = self._among(storage.list_names(storage.join(self._output_uri, "items")))

    def wrote(self, digest: str, error: str) -> None:
        """An item's file was written since, or could not be, for the reason that its worker gives."""
        self._written.add(digest)
        self._errors[digest] = error or NO_RESULT

    def is_written(self, digest: str) -> bool:
        """Whether an item's file is there, as far as it is known."""
        return digest in self._written

    def results(
        self, items: Iterable[Item], invalid: Mapping[str, str], *, only_known: bool = False
    ) -> Iterator[Result]:
        """A result for each item, also for those that share another's digest.

        Args:
            items: any number; they are not held.
            invalid: why an item was not tried, by digest.
            only_known: leave out those of which nothing is known yet; otherwise they have failed.
        """
        for chunk in _chunks(items):
            found = self._known({item.digest for item in chunk} - invalid.keys())
            for item in chunk:
                if item.digest in invalid:
                    yield result_of(item, status="invalid", error=invalid[item.digest])
                elif item.digest in found:
                    yield for_item(found[item.digest], item)
                elif not only_known:
                    yield result_of(item, status="failed", error=self._errors.get(item.digest, self.no_result))

    def _known(self, digests: set[str]) -> dict[str, Result]:
        rows = {digest: self._rows[digest] for digest in digests & self._rows.keys()}
        found = {row["digest"]: _result(row) for row in self._table.take(_indices(rows.values())).to_pylist()}
        read = self._read((digests - rows.keys()) & self._written)
        return found | {result.digest: result for result in read if result}

    def _read(self, digests: Iterable[str]) -> Iterator[Result | None]:
        with ThreadPoolExecutor(16) as pool:
            for chunk in _chunks(digests):
                yield from pool.map(lambda digest: read_item(self._output_uri, digest), chunk)

    def _is_there(
        self, status: str, files: Mapping[str, str], num_bytes: Mapping[str, int], formats: Collection[str]
    ) -> bool:
        return (
            status == "ok"
            and files.keys() >= set(formats)
            and all(self._is_whole(path, num_bytes.get(kind)) for kind, path in files.items())
        )

    def _is_whole(self, path: str, num_bytes: int | None) -> bool:
        """Whether a file is there in its size; older results do not say theirs, but no file is empty."""
        name = path.removeprefix("clips/").partition("/")[0]
        size = self._clips.get(name)
        if size is None:  # a folder of frames, or nothing
            return name in self._clips
        return size > 0 and num_bytes in (None, size)


def item_uri(output_uri: str, digest: str) -> str:
    """Where the result of an item lies."""
    return storage.join(output_uri, "items", f"{digest}.json")


def read_item(output_uri: str, digest: str) -> Result | None:
    """The result of an item, of whichever entry it was rendered for; None if there is none, or a damaged one."""
    uri = item_uri(output_uri, digest)
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        return None
    try:
        return Result.model_validate(checked_json.load(content, uri, remedy="it is rendered again"))
    except ValueError as error:  # pydantic's, and ours
        logger.warning("%s", error if isinstance(error, UserError) else f"{uri} is no result: it is rendered again")
        return None


def write_item(output_uri: str, result: Result) -> None:
    """Commit an item."""
    content = checked_json.dump(result.model_dump(mode="json"))
    storage.write_bytes(item_uri(output_uri, result.digest), content)


def result_of(item: Item, **outcome: Any) -> Result:
    """An item with what became of it."""
    return Result.model_construct(**_values(item, Item), **outcome)


def describe(error: Exception) -> str:
    """An error as one line for a row."""
    text = printed(" ".join(str(error).split())[:500])
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def for_item(result: Result, item: Item) -> Result:
    """What became of an item that another one of the same digest was rendered for."""
    return Result.model_construct(**_values(result, Result) | _values(item, Item))


def read_results(output_uri: str) -> list[Result]:
    """The rows of the table, with what became of their items since.

    Raises:
        UserError: there is no table.
    """
    table = read_table(output_uri)
    if not len(table):
        uri = storage.join(output_uri, TABLE)
        raise UserError(f"there is no {uri}: render a catalog there first (pipelines/animate.py)")
    rows = [_result(row) for row in table.to_pylist()]
    ledger = Ledger(output_uri, {row.digest for row in rows})
    there = ledger.finished()
    found = ledger.results(rows, {row.digest: row.error or "" for row in rows if row.status == "invalid"})
    return [
        result.model_copy(update={"status": "failed", "error": _NO_CLIP})
        if result.status == "ok" and result.digest not in there
        else result
        for result in found
    ]


def read_table(output_uri: str) -> pa.Table:
    """The table as it lies there; empty if there is none, or one that an older version wrote."""
    return _parse(_read_content(output_uri))


def _read_content(output_uri: str) -> bytes:
    try:
        return storage.read_bytes(storage.join(output_uri, TABLE))
    except FileNotFoundError:
        return b""


def _parse(content: bytes, columns: list[str] | None = None) -> pa.Table:
    empty = _SCHEMA.empty_table().select(columns or _SCHEMA.names)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
    except pa.ArrowInvalid:
        return empty
    return file.read(columns) if file.schema_arrow.equals(_SCHEMA) else empty


def write_table(output_uri: str, results: Iterable[Result]) -> None:
    """Write the table; the results are not held."""
    with (
        storage.write_file(storage.join(output_uri, TABLE)) as path,
        pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer,
    ):
        for chunk in _chunks(results):
            rows = [_row(result, output_uri) for result in chunk]
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))


def _row(result: Result, output_uri: str) -> dict[str, Any]:
    row = result.model_dump()
    path = next(iter(result.files.values()), None)
    return row | {name: list(row[name].items()) for name in _MAPS} | {"uri": path and storage.join(output_uri, path)}


def _result(row: dict[str, Any]) -> Result:
    return Result.model_validate(
        {name: dict(value) if name in _MAPS else value for name, value in row.items() if name != "uri"}
    )


def _indices(rows: Iterable[int]) -> pa.Array:
    return pa.array(list(rows), pa.int64())


def _values(result: Item, schema: type[Item]) -> dict[str, Any]:
    return {name: getattr(result, name) for name in schema.model_fields}


def _chunks(values: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(values)
    return iter(lambda: list(islice(iterator, _CHUNK)), [])
