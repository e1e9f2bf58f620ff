"""Animate on Ray workers: the items of a catalog, in slices of one entry, by actors that keep one base resident.

Every item ends as `items/{digest}.json` under the output folder, written after its clips. So a repeated slice, job or
command renders only what is not there.
"""

import hashlib
import itertools
import logging
import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config
from animatediff.errors import UserError
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog import Catalog, Entry, Item, Result
from animatediff.rendering.gallery import gallery_html
from animatediff.rendering.outputs import encode_gif, encode_mp4
from pipelines.runtime import BOUNDED_RETRIES

logger = logging.getLogger(__name__)

# Enough items to make up for loading an entry's weights, few enough to spread over the actors.
_MAX_SLICE = 8
_NO_CLIP = "its clip is gone; run the animate job again"
_NO_RESULT = "no result: the actor crashed, ran out of memory, or could not write; see its log in Ray"


class Slice(Config):
    """Items of one entry: what an actor is given at a time."""

    entry: Entry
    items: tuple[Item, ...]


class RenderSlice:
    """Render a slice and write its clips; an item's failure is its result."""

    def __init__(self, catalog: str, output_uri: str, *, use_gpu: bool) -> None:
        self._catalog, self._output_uri = Catalog.model_validate_json(catalog), output_uri
        self._device = "cuda" if use_gpu else "cpu"
        # Sums round by the number of threads, and Ray's workers differ in it: one makes equal items equal bytes.
        torch.set_num_threads(1)

    @cached_property
    def _animator(self) -> Animator:
        # Not in the constructor: what fails there ends the job, what fails here is told with each item.
        return Animator.for_catalog(self._catalog, device=self._device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`slice` (one row, JSON) -> `result` (a row an item, JSON)."""
        (text,) = batch["slice"]
        piece = Slice.model_validate_json(str(text))
        entry_error = self._load(piece.entry)
        results = (self._result(item, entry_error) for item in piece.items)
        return {"result": [result.model_dump_json() for result in results]}

    def _load(self, entry: Entry) -> Exception | None:
        try:
            self._animator.load_entry(entry)
        except Exception as error:
            logger.exception("entry %s", entry.name)
            return error
        return None

    def _result(self, item: Item, entry_error: Exception | None) -> Result:
        if done := finished(self._output_uri, item):
            return done
        start = time.monotonic()
        try:
            if entry_error is not None:
                raise entry_error
            outcome = {"status": "ok", **self._render(item)}
        except Exception as error:
            logger.exception("item %s of entry %s", item.digest, item.entry)
            outcome = {"status": "failed", "error": describe(error)}
        result = Result(**item.model_dump(), **outcome, seconds=round(time.monotonic() - start, 3))
        storage.write_bytes(item_uri(self._output_uri, item.digest), result.model_dump_json().encode())
        return result

    def _render(self, item: Item) -> dict[str, str]:
        frames = self._animator.render(item)
        mp4, gif = (f"clips/{item.digest[:16]}.{suffix}" for suffix in ("mp4", "gif"))
        video = encode_mp4(frames, fps=item.fps)
        storage.write_bytes(storage.join(self._output_uri, mp4), video)
        storage.write_bytes(storage.join(self._output_uri, gif), encode_gif(frames, fps=item.fps))
        return {"mp4": mp4, "gif": gif, "mp4_sha256": hashlib.sha256(video).hexdigest()}


def finished(output_uri: str, item: Item) -> Result | None:
    """The result of an item that is rendered already, clip included; it may be another entry's with the same digest."""
    try:
        result = Result.model_validate_json(storage.read_bytes(item_uri(output_uri, item.digest)))
    except (FileNotFoundError, ValidationError):
        return None
    is_there = result.status == "ok" and result.mp4 and storage.exists(storage.join(output_uri, result.mp4))
    return _for_item(result, item) if is_there else None


def render_items(
    catalog: Catalog, items: list[Item], output_uri: str, *, num_actors: int, use_gpu: bool
) -> Iterator[Result]:
    """Render items of distinct digests, and give their results as slices finish.

    A slice whose actor died with every retry gives no rows: its items are told from what lies in the output folder.
    """
    slices = list(_slices(catalog, items, num_actors))
    missing = {item.digest: item for item in items}
    for row in _dataset(catalog, slices, output_uri, num_actors=num_actors, use_gpu=use_gpu).iter_rows():
        result = Result.model_validate_json(row["result"])
        del missing[result.digest]
        yield result
    for item in missing.values():
        yield finished(output_uri, item) or Result(**item.model_dump(), status="failed", error=_NO_RESULT)


def _dataset(
    catalog: Catalog, slices: list[Slice], output_uri: str, *, num_actors: int, use_gpu: bool
) -> ray.data.Dataset:
    rows = [{"slice": piece.model_dump_json()} for piece in slices]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    # A slice that kills its actor must not end the others, and a slow one on a CPU is not a hang.
    dataset.context.max_errored_blocks = -1
    dataset.context.execution_no_progress_timeout_s = -1
    return dataset.map_batches(
        RenderSlice,
        fn_constructor_args=(catalog.model_dump_json(), output_uri),
        fn_constructor_kwargs={"use_gpu": use_gpu},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=num_actors, max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=1 if use_gpu else 0,
        **BOUNDED_RETRIES,
    )


def for_items(items: Iterable[Item], by_digest: dict[str, Result]) -> list[Result]:
    """A result for every item, also for those that share another's digest."""
    return [_for_item(by_digest[item.digest], item) for item in items]


def read_results(output_uri: str) -> list[Result]:
    """What `write_reports` wrote, with what became of the items since.

    Raises:
        UserError: there is no table.
    """
    uri = storage.join(output_uri, "results.parquet")
    try:
        rows = pq.read_table(pa.BufferReader(storage.read_bytes(uri))).to_pylist()
    except FileNotFoundError as error:
        raise UserError(f"there is no {uri}: render a catalog there first (pipelines/animate.py)") from error
    items = [Item(**{name: row[name] for name in Item.model_fields}) for row in rows]
    with ThreadPoolExecutor(16) as pool:
        known = pool.map(lambda item: finished(output_uri, item), items)
    return [
        result or Result(**item.model_dump(), status="failed", error=row["error"] or _NO_CLIP)
        for item, row, result in zip(items, rows, known, strict=True)
    ]


def write_reports(output_uri: str, results: list[Result]) -> None:
    """Write `results.parquet` and `index.html`."""
    rows = [result.model_dump() for result in results]
    for row in rows:
        row["scores"] = list(row["scores"].items())
        for name in ("mp4", "gif"):
            path = row.pop(name)
            row[f"{name}_uri"] = path and storage.join(output_uri, path)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink)
    storage.write_bytes(storage.join(output_uri, "results.parquet"), sink.getvalue().to_pybytes())
    storage.write_bytes(storage.join(output_uri, "index.html"), gallery_html(results).encode())


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("digest", "entry", "prompt", "negative_prompt")),
        *((name, pa.int64()) for name in ("seed", "num_inference_steps", "num_frames", "width", "height")),
        *((name, pa.float64()) for name in ("guidance_scale", "fps", "seconds")),
        *((name, pa.string()) for name in ("status", "error", "mp4_uri", "gif_uri", "mp4_sha256")),
        ("scores", pa.map_(pa.string(), pa.float64())),
        *((name, pa.string()) for name in ("scored_by", "score_error")),
    ]
)


def _slices(catalog: Catalog, items: list[Item], num_actors: int) -> Iterator[Slice]:
    """Neighbours of one entry, in pieces that give every actor work."""
    entries = {entry.name: entry for entry in catalog.entries}
    size = min(_MAX_SLICE, math.ceil(len(items) / num_actors))
    for name, group in itertools.groupby(items, key=lambda item: item.entry):
        members = list(group)
        for start in range(0, len(members), size):
            yield Slice(entry=entries[name], items=tuple(members[start : start + size]))


def _for_item(result: Result, item: Item) -> Result:
    return result.model_copy(update={name: getattr(item, name) for name in Item.model_fields})


def item_uri(output_uri: str, digest: str) -> str:
    """Where the result of an item lies."""
    return storage.join(output_uri, "items", f"{digest}.json")


def describe(error: Exception) -> str:
    """An error as one line for a table."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
