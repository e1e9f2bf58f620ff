"""What a curated collection holds, in text, and whether it is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.data import shards
from animatediff.data.curation.manifest import ShotManifest, ShotShard
from animatediff.data.curation.selection import meaning_of
from animatediff.data.curation.shot_table import read_rows
from animatediff.data.ingest import plan as planning
from animatediff.data.ingest import provenance
from animatediff.data.ingest.seal import read_quarantine
from animatediff.data.sources.collections.not_taken import describe_counts
from animatediff.errors import UserError

_QUANTILES = (0.05, 0.5, 0.95)
_EXAMPLES = 3
_CHECKED = ("shot_id", "video_id", "selected", "reason")


@dataclass
class Report:
    """What was counted, and what is wrong."""

    num_planned: int = 0
    num_videos: int = 0
    num_shots: int = 0
    num_selected: int = 0
    num_quarantined: int = 0
    problems: list[str] = field(default_factory=list)
    """One line each; empty when the collection is whole."""


def summary(collection_uri: str, manifest: ShotManifest) -> str:
    """Return counts, lengths, borders and reasons as lines of text.

    Raises:
        UserError: a shard cannot be read.
    """
    rows = read_rows(collection_uri, [shard.path for shard in manifest.shards])
    selected = rows.filter(rows["selected"])
    size_mb = sum(shard.num_bytes for shard in manifest.shards) / 1e6
    quarantined = ", ".join(f"{number} {reason}" for reason, number in manifest.quarantined.items())
    words = pc.utf8_split_whitespace(pc.fill_null(selected["caption"], ""))
    captioned = pc.sum(pc.not_equal(pc.fill_null(selected["caption"], ""), "")).as_py() or 0
    lines = [
        f"shots        {manifest.num_selected} selected of {manifest.num_shots}, {manifest.selected_s / 3600:.2f} h, "
        f"of {manifest.num_videos} videos",
        f"length       {_quantiles(pc.subtract(selected['end_s'], selected['start_s']))} s (p5, median, p95)",
        f"captions     {captioned}, {_quantiles(pc.list_value_length(words))} words (p5, median, p95)",
        f"written by   {_counts(selected['caption_model'])}",
        f"borders      {_counts(rows['border_before'])}",
        f"shards       {len(manifest.shards)}, {size_mb:.1f} MB, edition {manifest.edition}",
        f"quarantined  {quarantined or 'none'}",
        f"not taken    {describe_counts(provenance.read_not_taken(collection_uri)) or 'none'}",
        "",
        "not selected" if manifest.reasons else "every shot is selected",
    ]
    lines += [f"  {number:>7} {reason:<18} {meaning_of(reason)}" for reason, number in manifest.reasons.items()]
    return "\n".join(lines)


def _quantiles(values: pa.ChunkedArray) -> str:
    numbers = np.asarray(values.drop_null(), float)
    return " / ".join(f"{value:.3g}" for value in np.quantile(numbers, _QUANTILES)) if len(numbers) else "no"


def _counts(values: pa.ChunkedArray) -> str:
    found = pc.value_counts(values.drop_null()).to_pylist()
    ordered = sorted(found, key=lambda row: -row["counts"])
    return ", ".join(f"{row['values']}: {row['counts']}" for row in ordered if row["values"]) or "none"


def verify(collection_uri: str, manifest: ShotManifest) -> Report:
    """Read a sealed collection whole and count it again: bytes, hashes, and every planned video in one place.

    Raises:
        UserError: its plan or its quarantine cannot be read.
    """
    report = Report()
    tables = [_checked_shard(collection_uri, shard, report) for shard in manifest.shards]
    rows = pa.concat_tables([table for table in tables if table is not None]) if any(tables) else None
    videos = set() if rows is None else set(rows["video_id"].to_pylist())
    if rows is not None:
        _check_shots(rows, manifest, report)
    rejected = read_quarantine(collection_uri)
    in_units = rejected.filter(pc.not_equal(rejected["unit_id"], ""))["video_id"].to_pylist()
    planned = _planned(collection_uri, manifest.num_units)
    report.num_videos, report.num_quarantined, report.num_planned = len(videos), len(rejected), len(planned)
    _complain(report, "planned videos that are neither in a shard nor in quarantine", planned - videos - {*in_units})
    _complain(report, "videos that are in a shard and in quarantine", videos & {*in_units})
    _complain(report, "videos that stand in no plan", (videos | {*in_units}) - planned)
    return report


def _checked_shard(collection_uri: str, shard: ShotShard, report: Report) -> pa.Table | None:
    """Return a shard's shots, if its bytes are those that the manifest promises."""
    with _problems_of(shard, report):
        if shards.sha256(storage.read_bytes(storage.join(collection_uri, shard.path))) != shard.sha256:
            report.problems.append(f"{shard.path} has other bytes than the manifest says")
            return None
        table = shards.read_columns(storage.join(collection_uri, shard.path), _CHECKED)
        if len(table) != shard.num_shots:
            report.problems.append(f"{shard.path} has {len(table)} shots, the manifest says {shard.num_shots}")
        return table
    return None


@contextmanager
def _problems_of(shard: ShotShard, report: Report) -> Iterator[None]:
    try:
        yield
    except (UserError, FileNotFoundError) as error:
        report.problems.append(f"{shard.path} cannot be read: {error}")


def _check_shots(rows: pa.Table, manifest: ShotManifest, report: Report) -> None:
    report.num_shots, report.num_selected = len(rows), pc.sum(rows["selected"]).as_py() or 0
    counts = pc.value_counts(rows["shot_id"]).to_pylist()
    _complain(report, "shots that stand in the shards twice", {row["values"] for row in counts if row["counts"] > 1})
    unsaid = rows.filter(pc.equal(rows["selected"], pc.not_equal(rows["reason"], "")))
    wrong = "shots that are selected with a reason, or left out without one"
    _complain(report, wrong, set(unsaid["shot_id"].to_pylist()))
    if (report.num_shots, report.num_selected) != (manifest.num_shots, manifest.num_selected):
        report.problems.append(
            f"{report.num_selected} of {report.num_shots} shots are selected, the manifest says "
            f"{manifest.num_selected} of {manifest.num_shots}"
        )


def _planned(collection_uri: str, num_units: int) -> set[str]:
    found: set[str] = set()
    for name in planning.plan_files(collection_uri):
        rows = planning.read_plan_file(collection_uri, name)
        found |= set(rows.filter(pc.less(rows["ordinal"], num_units))["video_id"].to_pylist())
    return found


def _complain(report: Report, what: str, names: set[str]) -> None:
    if names:
        shown = ", ".join(sorted(names)[:_EXAMPLES])
        report.problems.append(f"{len(names)} {what}: {shown}{', ...' * (len(names) > _EXAMPLES)}")
