"""The plan: which videos make up which unit of work.

A unit is encoded and committed as a whole. The plan is written once; videos that the source gains later are appended
as further units, so that no unit ever changes its content.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from animatediff import storage
from animatediff.config import differing_fields
from animatediff.data import shards
from animatediff.data.quarantine import Reason, Rejection
from animatediff.data.sources import SourceVideo
from animatediff.errors import UsageError

FILE_NAME = "plan.parquet"


@dataclass(frozen=True)
class Unit:
    """Videos that are encoded and committed together."""

    ordinal: int
    unit_id: str
    videos: tuple[SourceVideo, ...]


def dataset_key(settings: dict[str, Any]) -> str:
    """Hash of everything that decides a clip's latents."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def select(videos: Iterable[SourceVideo]) -> tuple[list[SourceVideo], list[Rejection]]:
    """Set aside what needs no look at the file: impossible ids, ids that came before, videos without a caption."""
    chosen: dict[str, SourceVideo] = {}
    rejected = []
    for video in videos:
        if not video.video_id or ".." in video.video_id.split("/") or video.video_id.startswith("/"):
            detail = f"the id {video.video_id!r} is empty or leads out of the videos' folder"
            rejected.append(Rejection(video.video_id, video.uri, "", "plan", Reason.BAD_ID, detail))
        elif video.video_id in chosen:
            detail = f"the id is taken by {chosen[video.video_id].uri}"
            rejected.append(Rejection(video.video_id, video.uri, "", "plan", Reason.DUPLICATE_ID, detail))
        elif not video.caption:
            detail = "the caption is missing or empty"
            rejected.append(Rejection(video.video_id, video.uri, "", "plan", Reason.NO_CAPTION, detail))
        else:
            chosen[video.video_id] = video
    return list(chosen.values()), rejected


def extend(units: list[Unit], videos: Iterable[SourceVideo], *, key: str, videos_per_unit: int) -> list[Unit]:
    """Append the videos that no unit has yet, as further units."""
    planned = {video.video_id for unit in units for video in unit.videos}
    new = [video for video in videos if video.video_id not in planned]
    groups = [tuple(new[i : i + videos_per_unit]) for i in range(0, len(new), videos_per_unit)]
    return units + [
        Unit(ordinal, _unit_id(key, ordinal, group), group) for ordinal, group in enumerate(groups, start=len(units))
    ]


def _unit_id(key: str, ordinal: int, videos: tuple[SourceVideo, ...]) -> str:
    content = repr((key, ordinal, videos))
    return f"{ordinal:07d}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


def write_plan(dataset_uri: str, units: list[Unit], settings: dict[str, Any]) -> None:
    """Write the plan, atomically."""
    rows = [
        {"ordinal": unit.ordinal, "unit_id": unit.unit_id} | asdict(video) for unit in units for video in unit.videos
    ]
    data = shards.to_parquet(pa.Table.from_pylist(rows), {"settings": json.dumps(settings, sort_keys=True)})
    storage.write_bytes(storage.join(dataset_uri, FILE_NAME), data)


def read_plan(dataset_uri: str, settings: dict[str, Any]) -> list[Unit]:
    """The units planned so far; none for a new dataset.

    Raises:
        UsageError: the dataset was made with other settings; the message says which.
    """
    try:
        data = storage.read_bytes(storage.join(dataset_uri, FILE_NAME))
    except FileNotFoundError:
        return []
    differing = differing_fields(json.loads(shards.read_footer(data)["settings"]), settings)
    if differing:
        raise UsageError(
            f"the dataset {dataset_uri} was made with other settings ({'; '.join(differing)}): "
            "its clips cannot be mixed, so choose another output_uri"
        )
    rows = shards.from_parquet(data).to_pylist()
    return [
        Unit(ordinal, unit_id, tuple(SourceVideo(r["video_id"], r["uri"], r["caption"]) for r in group))
        for (ordinal, unit_id), group in groupby(rows, key=lambda r: (r["ordinal"], r["unit_id"]))
    ]
