"""A curated collection as a source: its selected shots, each with its caption, tags and crop."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from animatediff import storage
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.sources.captions import clean_caption
from animatediff.data.sources.fetching.reach import Reach
from animatediff.data.sources.files import errors_named, opened
from animatediff.data.sources.spec import Fault, SourceConfig, SourceVideo
from animatediff.data.sources.tables.columns import caption_of
from animatediff.data.sources.uris import ParquetCell, ShotPart, describe
from animatediff.errors import UserError
from animatediff.storage import checked_json
from animatediff.uris import printable_uri

_FILE_NAME = "manifest.json"
_MARK = re.compile(rb'"kind"\s*:\s*"shots"')
_HEAD_BYTES = 256
"""Within which a manifest says what it is of."""
_COLUMNS = (
    *("shot_id", "uri", "start_pts", "last_pts", "selected", "caption", "tags"),
    *(f"crop_{side}" for side in CropBox._fields),
)
_VIDEO = "video"


class CollectionManifest(NamedTuple):
    """What ingest needs of a curated collection's manifest."""

    shards: tuple[str, ...]
    """Relative to the collection's folder, in order."""
    store: Literal["copy", "reference"]
    """Whether the shards hold the shots' videos, or only where these lie in the files that were curated."""


def find_manifest(uri: str) -> CollectionManifest | None:
    """Return the manifest of a curated collection; None where a source is none.

    Raises:
        UserError: it is damaged.
    """
    place = storage.join(uri, _FILE_NAME)
    if not storage.exists(place):
        return None
    with opened(place) as file, errors_named(place):
        content = file.read(_HEAD_BYTES)
        if _MARK.search(content) is None:  # any folder may have a file of this name
            return None
        content += file.read()
    try:
        fields = checked_json.load(content, place, remedy="restore it")
        shards = tuple(str(shard["path"]) for shard in fields["shards"])
        is_reference = fields.get("selection", {}).get("store") == "reference"
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{printable_uri(place)} is no manifest of shots: {describe(error)}") from error
    return CollectionManifest(shards, "reference" if is_reference else "copy")


def read_shots(source: SourceConfig, manifest: CollectionManifest) -> Iterator[SourceVideo]:
    """Yield the selected shots of a curated collection, in its order.

    Args:
        source: its folder.
        manifest: of it.

    Raises:
        UserError: a shard cannot be read.
    """
    for path in manifest.shards:
        yield from _read_shard(storage.join(source.uri, path), source, manifest)


def _read_shard(uri: str, source: SourceConfig, manifest: CollectionManifest) -> Iterator[SourceVideo]:
    reach = Reach(uri, source.uri, source.trusted)
    with opened(uri) as file, errors_named(uri):
        try:
            parquet = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            if missing := {*_COLUMNS, _VIDEO} - set(parquet.schema_arrow.names):
                raise UserError(f"{printable_uri(uri)} lacks the columns of shots: {', '.join(sorted(missing))}")
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group, columns=list(_COLUMNS), use_threads=False).to_pylist()
                for number, row in enumerate(rows):
                    if row["selected"]:
                        cell = ParquetCell(uri, group, number, _VIDEO) if manifest.store == "copy" else None
                        yield _shot(row, cell, reach, source.encoding)
        except pa.ArrowInvalid as error:
            raise UserError(f"{printable_uri(uri)} is damaged: {describe(error)} (restore it)") from error


def _shot(row: Mapping[str, Any], cell: ParquetCell | None, reach: Reach, encoding: str | None) -> SourceVideo:
    caption = caption_of(row["caption"], "column 'caption'", encoding)
    crop = None
    if row["crop_x"] is not None:
        crop = CropBox(*(row[f"crop_{side}"] for side in CropBox._fields))
    tags = tuple(filter(None, (clean_caption(tag or "") for tag in row["tags"] or ())))
    place = reach.locate(row["uri"]) if cell is None else str(cell)
    fault = place if isinstance(place, Fault) else caption.fault
    if cell is None:
        place = str(ShotPart(row["uri"] if isinstance(place, Fault) else place, row["start_pts"], row["last_pts"]))
    return SourceVideo(row["shot_id"], str(place), caption.text, fault, crop, tags)
