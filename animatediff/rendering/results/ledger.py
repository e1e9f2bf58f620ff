"""What became of the items of a catalog: one JSON file each, written when its clip is there, and a table of all.

`items/{digest}.json` is the truth; a repeated slice, job or command renders only what has none. The table,
`results.parquet`, is what people read, and spares the next run reading the files of clips that are older than it.
"""

import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import pyarrow as pa

from animatediff import storage
from animatediff.errors import UserError, printed
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results import clip_files
from animatediff.rendering.results import table as results_table
from animatediff.rendering.results.result import Result
from animatediff.rendering.results.table import TABLE
from animatediff.storage import checked_json

logger = logging.getLogger(__name__)

NO_RESULT = "no result: nothing of it is under items/, and no worker has said why; run the animate job again"
NO_CLIP = "its clip is gone or damaged; run the animate job again"
"""What is told of an item whose files are not what was written."""
_CHUNK = results_table.CHUNK
# Object stores tell the time of a change in whole seconds.
_CLOCK_S = 2.0


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
        self._digests = frozenset(digests)
        # Asked for before the table is read: an item's file that is written in between then counts as newer.
        table_time = storage.list_times(output_uri).get(TABLE, 0.0)
        # The bytes are kept: the job may write another table to the file, whose rows have other indices.
        self._table_bytes = results_table.content(output_uri)
        self._few_columns = results_table.parse(self._table_bytes, ["digest", "status", "files", "num_bytes"])
        item_times = storage.list_times(storage.join(output_uri, "items"))
        self._clip_sizes = storage.list_sizes(storage.join(output_uri, "clips"))
        self._current_row_by_digest = self._find_current_rows(item_times, older_than=table_time - _CLOCK_S)
        """By digest, the row of the table that says what the item's file says, which is not read then."""
        self._written = self._digests_with_file(item_times)
        """The items whose files are there, as far as it is known; reading one finds out."""
        self._errors: dict[str, str] = {}
        self.damaged_files: list[str] = []
        """A file of each clip that `finished` or `verify_clips` has found gone or damaged."""
        self.no_result = NO_RESULT
        """What is told of an item of which nothing is known."""

    def _find_current_rows(self, item_times: Mapping[str, float], *, older_than: float) -> dict[str, int]:
        """Return the index of the row of each item that has a clip and whose file is older than the table."""
        rows = zip(self._few_columns["digest"].to_pylist(), self._few_columns["status"].to_pylist(), strict=True)
        # A row that has no clip may have been written before its item was: only the item's file tells.
        return {
            digest: row
            for row, (digest, status) in enumerate(rows)
            if status == "ok" and digest in self._digests and item_times.get(f"{digest}.json", math.inf) < older_than
        }

    @cached_property
    def _table(self) -> pa.Table:
        """The same rows as `_few_columns`, with all columns; no row is trusted where one of the others is damaged."""
        table = results_table.parse(self._table_bytes)
        if len(table) != len(self._few_columns):
            self._current_row_by_digest.clear()
        return table

    def _digests_with_file(self, names: Collection[str]) -> set[str]:
        return {digest for digest in self._digests if f"{digest}.json" in names}

    def finished(self, formats: Collection[str] = ()) -> set[str]:
        """Return the digests whose clips are there with all their bytes, in these formats at least."""
        batches = self._few_columns.take(_indices(self._current_row_by_digest.values())).to_batches(_CHUNK)
        rows = (row for batch in batches for row in batch.to_pylist())
        kept = {
            row["digest"]
            for row in rows
            if self._is_there(row["status"], dict(row["files"]), dict(row["num_bytes"] or ()), formats)
        }
        read = (result for result in self._read(self._written - self._current_row_by_digest.keys()) if result)
        return kept | {
            result.digest for result in read if self._is_there(result.status, result.files, result.num_bytes, formats)
        }

    def verify_clips(self, finished: Iterable[str]) -> set[str]:
        """Read the clips of finished items, and return the digests of those that are the bytes that were written."""
        kept: set[str] = set()
        with ThreadPoolExecutor(storage.PARALLEL_READS) as pool:
            for chunk in results_table.chunks(finished):
                results = list(self._load_results(set(chunk)).values())
                damaged = pool.map(lambda result: clip_files.first_damaged(self._output_uri, result), results)
                for result, path in zip(results, damaged, strict=True):
                    if path is None:
                        kept.add(result.digest)
                    else:
                        self.damaged_files.append(path)
        return kept

    def delete_results(self, digests: Iterable[str]) -> None:
        """Delete the files of items that are to be rendered again: one that is there was then written by this job."""
        forgotten = set(digests)
        storage.delete_many([item_uri(self._output_uri, digest) for digest in forgotten & self._written])
        self._written -= forgotten
        for digest in forgotten:
            self._current_row_by_digest.pop(digest, None)

    def refresh(self) -> None:
        """List the items' files anew: what was written since, also by workers that did not live to tell.

        Raises:
            UserError: the storage cannot be reached or refuses access.
        """
        self._written = self._digests_with_file(storage.list_names(storage.join(self._output_uri, "items")))

    def note_outcome(self, digest: str, error: str) -> None:
        """Note what a worker says of an item: that its file is written, or with an `error` why it may not be."""
        self._written.add(digest)
        self._errors[digest] = error or NO_RESULT

    def is_written(self, digest: str) -> bool:
        """Whether an item's file is there, as far as it is known."""
        return digest in self._written

    def results(
        self, items: Iterable[Item], invalid: Mapping[str, str], *, only_known: bool = False
    ) -> Iterator[Result]:
        """Yield a result for each item, also for those that share another's digest.

        Args:
            items: any number; they are not held.
            invalid: why an item was not tried, by digest.
            only_known: leave out those of which nothing is known yet; otherwise they have failed.
        """
        for chunk in results_table.chunks(items):
            found = self._load_results({item.digest for item in chunk} - invalid.keys())
            for item in chunk:
                if item.digest in invalid:
                    yield make_result(item, status="invalid", error=invalid[item.digest])
                elif item.digest in found:
                    yield result_for_item(found[item.digest], item)
                elif not only_known:
                    yield make_result(item, status="failed", error=self._errors.get(item.digest, self.no_result))

    def _load_results(self, digests: set[str]) -> dict[str, Result]:
        table = self._table
        rows = {digest: self._current_row_by_digest[digest] for digest in digests & self._current_row_by_digest.keys()}
        from_table = map(results_table.to_result, table.take(_indices(rows.values())).to_pylist())
        found = {result.digest: result for result in from_table if result}
        read = self._read((digests - found.keys()) & self._written)
        return found | {result.digest: result for result in read if result}

    def _read(self, digests: Iterable[str]) -> Iterator[Result | None]:
        with ThreadPoolExecutor(storage.PARALLEL_READS) as pool:
            for chunk in results_table.chunks(digests):
                yield from pool.map(lambda digest: read_item(self._output_uri, digest), chunk)

    def _is_there(
        self, status: str, files: Mapping[str, str], num_bytes: Mapping[str, int], formats: Collection[str]
    ) -> bool:
        if status != "ok" or not files:
            return False
        lost = [path for kind, path in files.items() if not self._is_whole(path, num_bytes.get(kind))]
        self.damaged_files += lost[:1]
        return not lost and files.keys() >= set(formats)

    def _is_whole(self, path: str, num_bytes: int | None) -> bool:
        """Whether a file is there in its size; older results do not say theirs, but no file is empty."""
        name = path.removeprefix("clips/").partition("/")[0]
        size = self._clip_sizes.get(name)
        if size is None:  # a folder of frames, or nothing
            return name in self._clip_sizes
        return size > 0 and num_bytes in (None, size)


def item_uri(output_uri: str, digest: str) -> str:
    """Return where the result of an item lies."""
    return storage.join(output_uri, "items", f"{digest}.json")


def read_item(output_uri: str, digest: str) -> Result | None:
    """Return the result of an item, of whichever entry it was rendered for; None if there is none, or a damaged one."""
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
    """Write an item's result, which says that it is done."""
    content = checked_json.dump(result.model_dump(mode="json"))
    storage.write_bytes(item_uri(output_uri, result.digest), content)


def make_result(item: Item, **outcome: Any) -> Result:
    """Return an item with what became of it."""
    return Result.model_construct(**_values(item, Item), **outcome)


def error_line(error: Exception) -> str:
    """Return an error as one line for a row."""
    text = printed(" ".join(str(error).split()))[:500]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def result_for_item(result: Result, item: Item) -> Result:
    """Return what became of an item that another one of the same digest was rendered for."""
    return Result.model_construct(**_values(result, Result) | _values(item, Item))


def read_results(output_uri: str) -> list[Result]:
    """Return the rows of the table, with what became of their items since.

    Raises:
        UserError: there is no table, or it is damaged.
    """
    uri, content = storage.join(output_uri, TABLE), results_table.content(output_uri)
    table = results_table.parse(content)
    if not content:
        raise UserError(f"there is no {uri}: render a catalog there first (pipelines/animate.py)")
    if not len(table):
        raise UserError(f"{uri} cannot be used: run the animate job again, which makes it anew from items/")
    rows = [result for row in table.to_pylist() if (result := results_table.to_result(row))]
    ledger = Ledger(output_uri, {row.digest for row in rows})
    there = ledger.finished()
    found = ledger.results(rows, {row.digest: row.error or "" for row in rows if row.status == "invalid"})
    return [
        without_clip(result) if result.status == "ok" and result.digest not in there else result for result in found
    ]


def without_clip(result: Result) -> Result:
    """Return what is told of an item whose clip is not what was written: its files are not to be shown."""
    return result.model_copy(
        update={"status": "failed", "error": NO_CLIP, "files": {}, "scores": {}, "score_errors": {}}
    )


def _indices(rows: Iterable[int]) -> pa.Array:
    return pa.array(list(rows), pa.int64())


def _values(result: Item, schema: type[Item]) -> dict[str, Any]:
    return {name: getattr(result, name) for name in schema.model_fields}
