"""The plan: which videos make up which unit of work.

A unit is encoded and committed as a whole. Many units are written to a file, which never changes;
videos that the source gains later are appended as further units. Planning streams: neither the source nor the plan is
ever in memory as a whole, only eight bytes a video.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from animatediff import storage
from animatediff.data import quarantine_table, shards
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.ingest.id_set import IdSet
from animatediff.data.quarantine import Reason, Rejection
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError
from animatediff.uris import printable_uri

PLAN_FOLDER = "plan"
"""Below the dataset's own folder."""
_UNITS_PER_FILE = 512
_MAX_FILE_CHARS = 64_000_000
"""Characters of a file's texts, which each worker has in memory."""
_MAX_REJECTED = 1_000_000
"""Rows that may be set aside where hardly any is of use: a file of kilobytes can list billions of nulls."""
_DUPLICATE = (
    "an earlier video of the source has the same id: set source.columns.id if it is another one (what looks like a "
    "password or a signature in a URL does not count)"
)
_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int32()),
        ("unit_id", pa.string()),
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("caption", pa.string()),
    ]
)


_OF_SHOTS = pa.schema([*((f"crop_{side}", pa.int32()) for side in CropBox._fields), ("tags", pa.list_(pa.string()))])
"""Further columns of a file whose videos are shots of a curated collection."""


@dataclass(frozen=True)
class Unit:
    """Videos that are encoded and committed together."""

    ordinal: int
    unit_id: str
    videos: tuple[SourceVideo, ...]


@dataclass(frozen=True, slots=True)
class UnitRef:
    """A unit by name; `read_unit` gives its videos."""

    ordinal: int
    unit_id: str
    num_videos: int
    plan_file: str
    """Name of the file below `PLAN_FOLDER` that holds it."""
    unredacted_uris: tuple[str | None, ...] = ()
    """Per video its full URI where the plan file holds a redacted one, else None; empty where it holds none."""


def plan_files(dataset_uri: str) -> list[str]:
    """Return the names of the plan's files, in order."""
    return [name for name in storage.list_files(storage.join(dataset_uri, PLAN_FOLDER)) if name.endswith(".parquet")]


def read_plan_file(dataset_uri: str, name: str) -> pa.Table:
    """Read one of the plan's files: a row a video, in order.

    Raises:
        UserError: it is gone or damaged.
    """
    uri = storage.join(dataset_uri, PLAN_FOLDER, name)
    try:
        return shards.read_table(uri, remedy="it is a piece of the dataset's plan: restore it")
    except FileNotFoundError as error:
        raise UserError(f"{uri}, a piece of the dataset's plan, is missing: restore it") from error


def read_unit(dataset_uri: str, ref: UnitRef) -> Unit:
    """Return the unit's videos.

    Raises:
        UserError: the plan cannot be read.
    """
    rows = _cached_plan_file(dataset_uri, ref.plan_file)
    ordinals = rows["ordinal"].to_numpy()
    start, end = np.searchsorted(ordinals, [ref.ordinal, ref.ordinal + 1]).tolist()
    videos = rows.slice(start, end - start).to_pylist()
    for video, unredacted_uri in zip(videos, ref.unredacted_uris, strict=False):
        video["uri"] = unredacted_uri or video["uri"]
    return Unit(ref.ordinal, ref.unit_id, tuple(map(planned_video, videos)))


def planned_video(row: Mapping[str, Any]) -> SourceVideo:
    """Return the video of a row of the plan."""
    crop = None
    if row.get("crop_x") is not None:
        crop = CropBox(*(row[f"crop_{side}"] for side in CropBox._fields))
    return SourceVideo(row["video_id"], row["uri"], row["caption"], crop=crop, tags=tuple(row.get("tags") or ()))


# Units of a file follow one another to the workers.
_cached_plan_file = lru_cache(maxsize=4)(read_plan_file)


class Planner:
    """Cuts a stream of videos into units; videos that a unit already has are skipped.

    Args:
        dataset_uri: where the plan's files are written; None plans without writing.
        dataset_key: it is part of what every unit's id is hashed from.
        videos_per_unit: how many make up a unit.
        needs_captions: whether a video without a caption is set aside.
    """

    def __init__(
        self, dataset_uri: str | None, *, dataset_key: str, videos_per_unit: int, needs_captions: bool = True
    ) -> None:
        self._dataset_uri, self._dataset_key, self._videos_per_unit = dataset_uri, dataset_key, videos_per_unit
        self._needs_captions = needs_captions
        self._planned, self._in_source = IdSet(), IdSet()
        self._rejected: list[pa.Table] = []
        self._pending: list[SourceVideo] = []
        self._draft: list[Unit] = []
        self._draft_chars = 0
        self.units: list[UnitRef] = []
        """All units, those of earlier runs first."""
        self.num_videos = 0
        """Usable videos that the source has."""

    def resume(self, dataset_uri: str) -> None:
        """Begin with the units of earlier runs.

        Raises:
            UserError: a piece of the plan is missing or damaged.
        """
        for name in plan_files(dataset_uri):
            rows = read_plan_file(dataset_uri, name)
            self._planned.add(rows["video_id"].to_pylist())
            found = list(_refs(rows, name))
            if not found or found[0].ordinal != len(self.units):
                raise UserError(f"the plan of {dataset_uri} has a gap before {name}: restore the missing segment")
            self.units += found

    def add(self, videos: Iterable[SourceVideo]) -> None:
        """Add the source's next videos.

        Raises:
            UserError: millions of its rows are of no use, and hardly any is.
        """
        batch = list(videos) if self._needs_captions else [_without_caption(video) for video in videos]
        usable = self._select(batch)
        self.num_videos += len(usable)
        if (number := sum(map(len, self._rejected))) > max(_MAX_REJECTED, 10 * self.num_videos):
            line = quarantine_table.examples(self._rejected[-1])[0]
            raise UserError(f"{number} rows of the source are of no use, as in: {line} (source.uri)")
        is_new = ~self._planned.contains([video.video_id for video in usable])
        self._queue(video for video, new in zip(usable, is_new.tolist(), strict=True) if new)

    def add_again(self, videos: Iterable[SourceVideo]) -> None:
        """Plan videos anew that some unit has already, because their quarantine is to be tried again."""
        self._queue(videos)

    def finish(self) -> pa.Table:
        """Plan what is left; returns the quarantine rows of the videos that were set aside."""
        self._cut_units(len(self._pending))
        self._write()
        return pa.concat_tables([quarantine_table.SCHEMA.empty_table(), *self._rejected])

    def _select(self, batch: list[SourceVideo]) -> list[SourceVideo]:
        """Set aside what needs no look at the file."""
        is_first_with_its_id = self._in_source.add([video.video_id for video in batch]).tolist()
        chosen, rejected = [], []
        for video, first in zip(batch, is_first_with_its_id, strict=True):
            rejection = _objection(video, is_first_with_its_id=first, needs_caption=self._needs_captions)
            if rejection is None:
                chosen.append(video)
            else:
                rejected.append(rejection)
        if rejected:
            self._rejected.append(quarantine_table.to_table(rejected))
        return chosen

    def _queue(self, videos: Iterable[SourceVideo]) -> None:
        """Queue videos for further units, and cut the units that are full."""
        self._pending += videos
        num_full = len(self._pending) - len(self._pending) % self._videos_per_unit
        self._cut_units(num_full)

    def _cut_units(self, num: int) -> None:
        """Make units of the first `num` queued videos."""
        for start in range(0, num, self._videos_per_unit):
            videos = tuple(self._pending[start : min(start + self._videos_per_unit, num)])
            ordinal = len(self.units) + len(self._draft)
            self._draft.append(Unit(ordinal, _unit_id(self._dataset_key, ordinal, videos), videos))
            self._draft_chars += sum(video.num_chars for video in videos)
            if len(self._draft) == _UNITS_PER_FILE or self._draft_chars > _MAX_FILE_CHARS:
                self._write()
        del self._pending[:num]

    def _write(self) -> None:
        if not self._draft:
            return
        name = f"segment-{self._draft[0].ordinal:07d}.parquet"
        if self._dataset_uri is not None:
            uri = storage.join(self._dataset_uri, PLAN_FOLDER, name)
            storage.write_bytes(uri, shards.to_parquet(_to_table(self._draft), {}))
        self.units += [UnitRef(unit.ordinal, unit.unit_id, len(unit.videos), name) for unit in self._draft]
        self._draft, self._draft_chars = [], 0


def _without_caption(video: SourceVideo) -> SourceVideo:
    """Return the video as one that nobody has captioned, which is no fault of it."""
    is_of_caption = video.fault is not None and video.fault.reason in (Reason.NO_CAPTION, Reason.BAD_CAPTION)
    return replace(video, caption="", fault=None if is_of_caption else video.fault)


def _objection(video: SourceVideo, *, is_first_with_its_id: bool, needs_caption: bool) -> Rejection | None:
    if video.fault is not None and not video.video_id:
        reason, detail = video.fault
    elif not video.video_id or ".." in video.video_id.split("/") or video.video_id.startswith("/"):
        reason, detail = Reason.BAD_ID, f"the id {video.video_id!r} is empty or leads out of the videos' folder"
    elif not is_first_with_its_id:
        reason, detail = Reason.DUPLICATE_ID, _DUPLICATE
    elif video.fault is not None:
        reason, detail = video.fault
    elif needs_caption and not video.caption:
        reason, detail = Reason.NO_CAPTION, "the caption is missing or empty"
    else:
        return None
    return Rejection(video.video_id, printable_uri(video.uri), "", "plan", reason, " ".join(detail.split())[:1000])


def _unit_id(dataset_key: str, ordinal: int, videos: tuple[SourceVideo, ...]) -> str:
    # Not their URIs: the same collection at another place gives the same bytes.
    content = repr((dataset_key, ordinal, [(video.video_id, video.caption, *_of_shot(video)) for video in videos]))
    return f"{ordinal:07d}-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _of_shot(video: SourceVideo) -> tuple[object, ...]:
    """Return what only shots have; empty for other videos."""
    return (video.crop, video.tags) if video.crop or video.tags else ()


def _to_table(units: list[Unit]) -> pa.Table:
    videos = [(unit, video) for unit in units for video in unit.videos]
    rows = [(unit.ordinal, unit.unit_id, v.video_id, printable_uri(v.uri), v.caption) for unit, v in videos]
    table = pa.table([pa.array(column) for column in zip(*rows, strict=True)], names=_SCHEMA.names).cast(_SCHEMA)
    if not any(_of_shot(video) for _, video in videos):
        return table
    crops = zip(*(video.crop or (None,) * len(CropBox._fields) for _, video in videos), strict=True)
    columns = [*map(list, crops), [list(video.tags) for _, video in videos]]
    for field, values in zip(_OF_SHOTS, columns, strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    return table


def _refs(rows: pa.Table, plan_file: str) -> Iterator[UnitRef]:
    pairs = zip(rows["ordinal"].to_pylist(), rows["unit_id"].to_pylist(), strict=True)
    for (ordinal, unit_id), group in groupby(pairs):
        yield UnitRef(ordinal, unit_id, sum(1 for _ in group), plan_file)
