"""Verify: every planned video is in exactly one shard or in quarantine, with all its clips, and every byte is there.

Shards are read one at a time, and of each video only eight bytes stay in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.data import shards
from animatediff.data.ingest import plan as planning
from animatediff.data.ingest.id_set import IdSet
from animatediff.data.ingest.seal import read_quarantine
from animatediff.data.manifest import Manifest, Shard, read_manifest

_COLUMNS = ("clip_id", "video_id", "window", "n_windows", "bucket")
_EXAMPLES = 3


@dataclass
class Report:
    """What was counted, and what is wrong."""

    num_shards: int = 0
    num_clips: int = 0
    num_videos: int = 0
    num_quarantined: int = 0
    num_planned: int = 0
    problems: list[str] = field(default_factory=list)
    """One line each; empty when the dataset is whole."""


def verify(dataset_uri: str) -> Report:
    """Read a sealed dataset whole and count it again.

    Raises:
        UserError: there is no sealed dataset, or its plan cannot be read.
    """
    manifest = read_manifest(dataset_uri)
    report = Report(num_shards=len(manifest.shards))
    clips, videos = IdSet(), IdSet()
    for shard in manifest.shards:
        table = _read_shard(dataset_uri, shard, manifest, report)
        if table is not None:
            _check_clips(shard, table, clips, videos, report)
    report.num_clips, report.num_videos = len(clips), len(videos)
    _check_plan(dataset_uri, manifest, videos, report)
    _check_counts(manifest, report)
    return report


def _read_shard(dataset_uri: str, shard: Shard, manifest: Manifest, report: Report) -> pa.Table | None:
    """Return the shard's rows without latents, if its bytes are those that the manifest promises."""
    try:
        data = storage.read_bytes(storage.join(dataset_uri, shard.path))
    except FileNotFoundError:
        report.problems.append(f"{shard.path} is missing")
        return None
    if shards.sha256(data) != shard.sha256:
        report.problems.append(f"{shard.path} has other bytes than the manifest says ({len(data)}, {shard.num_bytes})")
        return None
    footer = shards.read_footer(data)
    for name in ("dataset_key", "encoder_fp", "scaling_factor"):
        if footer[name] != str(getattr(manifest, name)):
            report.problems.append(f"{shard.path} is of another dataset: its {name} differs")
    if shards.row_group_rows(data) != shard.row_group_rows:
        report.problems.append(f"{shard.path} has other row groups than the manifest says")
    table = shards.from_parquet(data)
    sizes = pc.binary_length(table["latent"])
    wanted = [2 * int(np.prod(shape)) for shape in table["latent_shape"].to_pylist()]
    if sizes.to_pylist() != wanted:
        report.problems.append(f"{shard.path} has latents of other sizes than their shapes")
    return table.select(_COLUMNS)


def _check_clips(shard: Shard, table: pa.Table, clips: IdSet, videos: IdSet, report: Report) -> None:
    ids = table["clip_id"].to_pylist()
    _complain(report, f"clips of {shard.path} that stand in a shard already", ids, ~clips.add(ids))
    if len(ids) != shard.num_clips:
        report.problems.append(f"{shard.path} has {len(ids)} clips, the manifest says {shard.num_clips}")
    if set(table["bucket"].to_pylist()) - {shard.bucket}:
        report.problems.append(f"{shard.path} has clips of another bucket than {shard.bucket}")
    windows = table.group_by("video_id").aggregate([("n_windows", "max"), ("n_windows", "min"), ("window", "count")])
    names = windows["video_id"].to_pylist()
    _complain(report, f"videos of {shard.path} that other shards have too", names, ~videos.add(names))
    partial = np.array(windows["window_count"]) != np.array(windows["n_windows_max"])
    _complain(report, f"videos of {shard.path} whose clips are not all there", names, partial)


def _check_plan(dataset_uri: str, manifest: Manifest, videos: IdSet, report: Report) -> None:
    rows = read_quarantine(dataset_uri)
    report.num_quarantined = len(rows)
    set_aside = rows.filter(pc.not_equal(rows["unit_id"], ""))["video_id"].to_pylist()
    rejected = IdSet()
    _complain(report, "videos that are twice in quarantine", set_aside, ~rejected.add(set_aside))
    _complain(report, "videos that are in a shard and in quarantine", set_aside, videos.contains(set_aside))
    planned, num_units = IdSet(), 0
    for segment in _segments(dataset_uri):
        num_units = segment["ordinal"][-1].as_py() + 1
        names = segment.filter(pc.less(segment["ordinal"], manifest.num_units))["video_id"].to_pylist()
        planned.add(names)
        lost = ~(videos.contains(names) | rejected.contains(names))
        _complain(report, "planned videos that are neither in a shard nor in quarantine", names, lost)
    report.num_planned = len(planned)
    if len(planned) < len(videos) + len(rejected):
        report.problems.append(f"{len(videos) + len(rejected) - len(planned)} videos stand in no plan")
    if num_units < manifest.num_units:
        report.problems.append(f"the plan has {num_units} units, the manifest says {manifest.num_units}")
    if num_units > manifest.num_units:
        left = num_units - manifest.num_units
        report.problems.append(f"{left} units of the plan are not sealed yet: run the ingest job again")


def _segments(dataset_uri: str) -> Iterator[pa.Table]:
    return (planning.read_plan_file(dataset_uri, name) for name in planning.plan_files(dataset_uri))


def _check_counts(manifest: Manifest, report: Report) -> None:
    counted = (report.num_clips, report.num_videos, report.num_quarantined)
    said = (manifest.num_clips, manifest.num_videos, sum(manifest.quarantined.values()))
    for what, number, promised in zip(("clips", "videos", "quarantine rows"), counted, said, strict=True):
        if number != promised:
            report.problems.append(f"{number} {what} are there, the manifest says {promised}")


def _complain(report: Report, what: str, names: list[str], is_bad: np.ndarray) -> None:
    bad = [name for name, wrong in zip(names, is_bad.tolist(), strict=True) if wrong]
    if bad:
        report.problems.append(f"{len(bad)} {what}: {', '.join(bad[:_EXAMPLES])}{', ...' * (len(bad) > _EXAMPLES)}")
