"""Parts of scanning: what one look at a unit's videos gave, their shots and rejections in one file.

A part's existence is the only record that its unit is scanned. Parts stay: selection looks at the shots of the whole
collection, and captions can be asked for anew.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa

from animatediff import storage
from animatediff.data import shards
from animatediff.data.curation.shot_table import SCHEMA
from animatediff.data.ingest.parts import part_uri
from animatediff.data.quarantine import Reason, Rejection
from animatediff.data.shots.shot import ScannedVideo, Shot
from animatediff.data.sources.spec import SourceVideo
from animatediff.uris import printable_uri

_REMEDY = "delete it and run curate again, which makes it anew"
_LATER = ("repeats", "selected", "caption", "tags", "caption_model", "video")
"""Columns that selection, captions and sealing fill."""
_SCANNED = pa.schema([field for field in SCHEMA if field.name not in _LATER])
_PREVIEWS = pa.field("previews", pa.list_(pa.binary()))
_PART = _SCANNED.append(_PREVIEWS)


def shot_rows(unit_id: str, video: SourceVideo, scanned: ScannedVideo) -> list[dict[str, object]]:
    """Return the shots of a video as rows of a part."""
    facts = {
        "video_id": video.video_id,
        "uri": printable_uri(video.uri),
        "unit_id": unit_id,
        "time_base": scanned.time_base,
        "fps": scanned.fps,
        "width": scanned.width,
        "height": scanned.height,
    }
    if scanned.crop is not None:
        facts |= {f"crop_{name}": value for name, value in scanned.crop._asdict().items()}
    return [facts | _row(video.video_id, shot) for shot in scanned.shots]


def _row(video_id: str, shot: Shot) -> dict[str, object]:
    # By times and not by a number: other settings cut elsewhere, and may not give another shot the same id.
    shot_id = f"{video_id}@{round(1000 * shot.start_s):09d}-{round(1000 * shot.end_s):09d}"
    fields = {name: getattr(shot, name) for name in _PART.names if hasattr(shot, name)}
    return fields | shot.scores | {"shot_id": shot_id, "phashes": list(shot.phashes), "previews": list(shot.previews)}


def commit(
    collection_uri: str, unit_id: str, rows: Sequence[dict[str, object]], rejections: Iterable[Rejection]
) -> None:
    """Commit a unit.

    Args:
        collection_uri: the collection's folder.
        unit_id: the unit.
        rows: its shots, as `shot_rows` gives them.
        rejections: its videos that cannot be used.
    """
    table = pa.Table.from_pylist(list(rows), schema=_PART)
    footer = {"unit_id": unit_id, "rejections": json.dumps([asdict(rejection) for rejection in rejections])}
    storage.write_bytes(part_uri(collection_uri, unit_id), shards.to_parquet(table, footer))


def read_shots(collection_uri: str, unit_ids: Sequence[str]) -> pa.Table:
    """Return the shots of scanned units, in the order given, as rows of `shot_table.SCHEMA`.

    What selection, captions and sealing fill is null; previews are not read.

    Raises:
        UserError: a part is missing or damaged.
    """
    names = _SCANNED.names
    with ThreadPoolExecutor(storage.PARALLEL_READS) as pool:
        tables = pool.map(lambda unit_id: shards.read_columns(part_uri(collection_uri, unit_id), names), unit_ids)
        scanned = pa.concat_tables([_SCANNED.empty_table(), *(table.select(names).cast(_SCANNED) for table in tables)])
    columns = [pa.nulls(len(scanned), field.type) if field.name in _LATER else scanned[field.name] for field in SCHEMA]
    return pa.table(columns, schema=SCHEMA)


def read_previews(collection_uri: str, unit_id: str) -> dict[str, list[bytes]]:
    """Return the JPEGs of a scanned unit's shots by shot id: of the first, the middle and the last frame.

    Raises:
        UserError: the part is missing or damaged.
    """
    table = shards.read_columns(part_uri(collection_uri, unit_id), ["shot_id", _PREVIEWS.name])
    return dict(zip(table["shot_id"].to_pylist(), table[_PREVIEWS.name].to_pylist(), strict=True))


def read_rejections(collection_uri: str, unit_ids: Sequence[str]) -> list[Rejection]:
    """Return the videos of scanned units that cannot be used, in the order given.

    Raises:
        UserError: a part is missing or damaged.
    """
    with ThreadPoolExecutor(storage.PARALLEL_READS) as pool:
        footers = pool.map(
            lambda unit_id: shards.read_footer_at(part_uri(collection_uri, unit_id), remedy=_REMEDY), unit_ids
        )
        rows = [row for footer in footers for row in json.loads(footer["rejections"])]
    return [Rejection(**row | {"reason": Reason(row["reason"])}) for row in rows]
