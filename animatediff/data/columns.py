"""What is known of a dataset's clips but their latents, by column: the schema's, users' own scores, duplicates.

Own scores lie in one map column of the shards, and duplicates, which only the whole dataset can tell, in a file of
their own beside the manifest. Here all are columns by their names.
"""

from collections.abc import Collection, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from animatediff import storage
from animatediff.data import shards
from animatediff.data.manifest import Manifest, Shard
from animatediff.data.scoring import duplicates

DUPLICATES_FILE = "duplicates.parquet"
DUPLICATE = "duplicate"
"""Name of the column that says whether a clip repeats an earlier one of the dataset."""
KNOWN = frozenset({DUPLICATE, *shards.SCHEMA.names} - {"latent", "scores"})
"""Names of the columns that every dataset has."""

_HASHED = ("clip_id", "video_id", "src_sha256", "t_start", "t_end", "flip", "phash", "blank")
_DUPLICATES_SCHEMA = pa.schema([("clip_id", pa.string()), ("exact_of", pa.string()), ("near_of", pa.string())])


def names(dataset_uri: str, manifest: Manifest) -> set[str]:
    """Return the names of all columns that `read` knows.

    Raises:
        UserError: the first shard cannot be read.
    """
    if not manifest.shards:
        return set(KNOWN)
    first = shards.read_row_group(storage.join(dataset_uri, manifest.shards[0].path), 0, ["scores"])
    return {*KNOWN, *_user_scores(first)}


def read(dataset_uri: str, shard: Shard, wanted: Collection[str], repeated: pa.Array | None = None) -> pa.Table:
    """Read columns of a shard's clips; an own score that a clip lacks is null.

    Args:
        dataset_uri: the dataset's folder.
        shard: which shard.
        wanted: names of columns.
        repeated: ids of the duplicates, from `read_duplicates`; needed where `DUPLICATE` is wanted.

    Raises:
        UserError: the shard is missing or damaged.
    """
    stored = {name for name in wanted if name in shards.SCHEMA.names}
    user_scores = set(wanted) - stored - {DUPLICATE}
    needed = stored | ({"scores"} if user_scores else set()) | ({"clip_id"} if DUPLICATE in wanted else set())
    table = shards.read_columns(storage.join(dataset_uri, shard.path), sorted(needed or {"clip_id"}))
    columns = {name: table[name] for name in stored}
    if user_scores:
        columns |= {name: _user_scores(table).get(name, pa.nulls(len(table), pa.float32())) for name in user_scores}
    if DUPLICATE in wanted:
        assert repeated is not None
        columns[DUPLICATE] = pc.is_in(table["clip_id"], repeated)
    return pa.table({name: columns[name] for name in sorted(columns)})


def _user_scores(table: pa.Table) -> dict[str, pa.Array]:
    """Return the map column's scores, a column each."""
    rows = [dict(pairs or ()) for pairs in table["scores"].to_pylist()]
    found = sorted({name for scores in rows for name in scores})
    return {name: pa.array([scores.get(name) for scores in rows], pa.float32()) for name in found}


def write_duplicates(dataset_uri: str, listed: Iterable[Shard]) -> None:
    """Look for duplicates among all clips, in the shards' order, and write down which repeat which.

    Raises:
        UserError: a shard cannot be read, or the storage cannot be written to.
    """
    tables = [shards.read_columns(storage.join(dataset_uri, shard.path), _HASHED) for shard in listed]
    clips = pa.concat_tables([shards.SCHEMA.empty_table().select(_HASHED), *tables])
    found = duplicates.find(
        clips["clip_id"],
        _contents(clips),
        np.asarray(pc.fill_null(clips["phash"], 0)),
        videos=clips["video_id"].combine_chunks().dictionary_encode().indices.to_numpy(),
        ignored=np.asarray(pc.or_(pc.fill_null(clips["blank"], False), pc.is_null(clips["phash"]))),
    )
    table = pa.table([clips["clip_id"], found.exact, found.near], schema=_DUPLICATES_SCHEMA)
    is_told = pc.or_(pc.not_equal(table["exact_of"], ""), pc.not_equal(table["near_of"], ""))
    data = shards.to_parquet(table.filter(is_told), {})
    storage.write_bytes(storage.join(dataset_uri, DUPLICATES_FILE), data)


def read_duplicates(dataset_uri: str) -> pa.Table:
    """Read which clips repeat others: `clip_id`, and what it repeats, `exact_of` and `near_of`, "" where it does not.

    Raises:
        FileNotFoundError: the dataset is not sealed.
        UserError: it is damaged, or the storage cannot be reached.
    """
    return shards.read_table(storage.join(dataset_uri, DUPLICATES_FILE), remedy="restore it")


def _contents(clips: pa.Table) -> pa.Array:
    """Return what a clip shows: the source's bytes, the times, and whether it is mirrored."""
    parts = [clips["src_sha256"], *(pc.cast(clips[name], pa.string()) for name in ("t_start", "t_end", "flip"))]
    # Where nothing is known of the source, the clip's own id: it repeats nothing.
    return pc.binary_join_element_wise(*(pc.coalesce(part, clips["clip_id"]) for part in parts), "/")
