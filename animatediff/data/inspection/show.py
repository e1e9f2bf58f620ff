"""What a sealed dataset holds, in text: counts, schema, how scores are spread, and where a clip comes from."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.data import columns, shards
from animatediff.data.ingest import plan as planning
from animatediff.data.ingest import provenance
from animatediff.data.manifest import Manifest, Shard
from animatediff.data.scoring.columns import SCORE_COLUMNS
from animatediff.data.sources.collections.not_taken import describe_counts
from animatediff.errors import UserError
from animatediff.uris import printable_uri

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
"""That scores are summed up by."""
_NOT_MEASURES = ("phash",)


def summary(dataset_uri: str, manifest: Manifest) -> str:
    """Return counts, scores and schema as lines of text.

    Raises:
        UserError: a shard cannot be read.
    """
    rows = read_scores(dataset_uri, manifest)
    buckets: Counter[str] = Counter()
    for shard in manifest.shards:
        buckets[shard.bucket] += shard.num_clips
    size_mb = sum(shard.num_bytes for shard in manifest.shards) / 1e6
    seconds = float(np.sum(np.subtract(rows["t_end"], rows["t_start"]))) if len(rows) else 0.0
    quarantined = ", ".join(f"{number} {reason}" for reason, number in manifest.quarantined.items())
    decoders = Counter(rows["decoder"].to_pylist())
    lines = [
        f"clips        {manifest.num_clips} of {manifest.num_videos} videos, {seconds / 3600:.2f} h",
        f"shards       {len(manifest.shards)}, {size_mb:.1f} MB",
        f"buckets      {', '.join(f'{name}: {number}' for name, number in sorted(buckets.items())) or 'none'}",
        f"decoders     {', '.join(f'{name}: {number}' for name, number in decoders.most_common()) or 'none'}",
        f"quarantined  {quarantined or 'none'}",
        f"not taken    {describe_counts(provenance.read_not_taken(dataset_uri)) or 'none'}",
        f"version      {manifest.digest()}",
        f"encoder      {manifest.encoder_fp}",
        "",
        *_score_lines(rows),
        "",
        "columns      " + ", ".join(f"{field.name} {field.type}" for field in shards.SCHEMA),
    ]
    return "\n".join(lines)


def read_scores(dataset_uri: str, manifest: Manifest) -> pa.Table:
    """Return what is known of all clips that can be measured or counted, a column each.

    Raises:
        UserError: a shard cannot be read.
    """
    own = columns.names(dataset_uri, manifest) - set(shards.SCHEMA.names)
    wanted = ["t_start", "t_end", "decoder", *SCORE_COLUMNS, *own]
    repeated = columns.read_duplicates(dataset_uri)["clip_id"]
    tables = [columns.read(dataset_uri, shard, wanted, repeated) for shard in manifest.shards]
    return pa.concat_tables(tables) if tables else pa.table({name: pa.array([], pa.float32()) for name in wanted})


def measures(rows: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the scores that can be ordered: each one's name and its values (n,) float, without nulls."""
    for name in rows.column_names:
        if name in ("t_start", "t_end", "decoder", *_NOT_MEASURES):
            continue
        values = np.array(rows[name].drop_null().to_pylist(), dtype=float)
        if len(values):
            yield name, values


def _score_lines(rows: pa.Table) -> list[str]:
    lines = ["score        " + "".join(f"{f'p{100 * quantile:g}':>10}" for quantile in QUANTILES)]
    for name, values in measures(rows):
        cells = "".join(f"{value:>10.4g}" for value in np.quantile(values, QUANTILES))
        lines.append(f"{name:<13}{cells}")
    return lines


def lineage(dataset_uri: str, manifest: Manifest, clip_id: str) -> dict[str, Any]:
    """Return everything that is known of a clip, from its shard back to its source.

    Raises:
        UserError: there is no such clip, or a file cannot be read.
    """
    shard, row = _find(dataset_uri, manifest.shards, clip_id)
    source = _planned(dataset_uri, row["video_id"], row["unit_id"])
    scores = dict(row.pop("scores") or ())
    return {"shard": shard.path, "source_uri": source, **row, **scores}


def _find(dataset_uri: str, candidates: Sequence[Shard], clip_id: str) -> tuple[Shard, dict[str, Any]]:
    told = [name for name in shards.SCHEMA.names if name != "latent"]
    for shard in candidates:
        uri = storage.join(dataset_uri, shard.path)
        index = pc.index(shards.read_columns(uri, ["clip_id"])["clip_id"], clip_id).as_py()
        if index >= 0:
            return shard, shards.read_columns(uri, told).slice(index, 1).to_pylist()[0]
    raise UserError(f"{dataset_uri} has no clip {clip_id!r}: its ids are a video's id, a dash and the window's number")


def _planned(dataset_uri: str, video_id: str, unit_id: str) -> str:
    for name in planning.plan_files(dataset_uri):
        rows = planning.read_plan_file(dataset_uri, name)
        found = rows.filter(pc.and_(pc.equal(rows["video_id"], video_id), pc.equal(rows["unit_id"], unit_id)))
        if len(found):
            return printable_uri(found["uri"][0].as_py())
    raise UserError(f"the plan of {dataset_uri} does not name the video {video_id!r}: restore it")
