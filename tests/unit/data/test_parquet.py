"""Damage at rest: no flipped bit of a file, and no truncation, is ever taken for its content."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff.data import shards
from animatediff.data.loading.loader import ClipLoader
from animatediff.data.loading.order import Batching
from animatediff.data.manifest import read_manifest
from animatediff.errors import UserError
from tests.unit.data.loading.test_loader import write_dataset

ZSTD = b"\x28\xb5\x2f\xfd"
"""What every compressed page begins with."""
FOOTER = {"unit_id": "x", "num_clips": '{"2x16x16": 70}'}


@pytest.fixture(scope="module")
def table():
    """More than one row group of clips, of all kinds of columns."""
    rng = np.random.default_rng(0)
    rows = [
        dict.fromkeys(shards.SCHEMA.names)
        | {"clip_id": f"c{i}", "caption": f"a caption {i}", "bucket": "2x16x16", "motion": i / 70, "static": i % 2 == 0}
        | {"latent": rng.bytes(16), "latent_shape": [1, 2, 2, 2], "latent_dtype": "float16", "scores": [("a", 1.0)]}
        for i in range(70)
    ]
    return pa.Table.from_pylist(rows, schema=shards.SCHEMA)


@pytest.fixture(scope="module")
def data(table):
    return shards.to_parquet(table, FOOTER)


def is_told(data, table):
    """Whether damaged bytes are refused; otherwise they must give exactly what was written."""
    try:
        read, footer = shards.from_parquet(data), shards.read_footer(data)
    except (OSError, pa.ArrowInvalid):
        return True
    assert read.equals(table)
    assert footer == FOOTER
    return False


def test_any_parquet_reader_opens_it_and_writing_it_again_gives_the_same_bytes(table, data):
    assert pq.read_table(io.BytesIO(data)).equals(table)
    assert shards.from_parquet(data).equals(table)
    assert shards.read_footer(data) == FOOTER
    assert shards.to_parquet(table, FOOTER) == data


def test_no_flipped_bit_passes(table, data):
    told = 0
    for at in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        told += is_told(bytes(damaged), table)
    # The others are page headers' fields that no reader needs.
    assert told > 0.95 * (len(data) // 3)


@pytest.mark.parametrize("keep", [0, 3, 8, 11, 100, -5000, -100, -9, -1])
def test_no_truncation_passes(table, data, keep):
    assert is_told(data[:keep], table)


def test_files_from_before_there_were_checksums_are_read(table):
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(FOOTER), buffer)
    assert shards.from_parquet(buffer.getvalue()).equals(table)
    assert shards.read_footer(buffer.getvalue()) == FOOTER


@pytest.mark.parametrize("place", ["first latent", "last latent", "clip ids", "footer", "truncated", "empty"])
def test_a_damaged_shard_is_not_trained_on(tmp_path, place):
    uri = write_dataset(tmp_path, shards=(70,), shapes=((4, 4, 8, 8),))
    manifest = read_manifest(uri)
    path = tmp_path / manifest.shards[0].path
    whole = path.read_bytes()
    latents = shards.from_parquet(whole)["latent"].to_pylist()
    places = {
        "first latent": whole.index(latents[0]),
        "last latent": whole.index(latents[-1]),
        "footer": len(whole) - 99,
    }
    places["clip ids"] = whole.index(ZSTD) + 9
    damaged = bytearray(whole)
    if place in places:
        damaged[places[place]] ^= 16
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b""}.get(place, bytes(damaged)))
    with pytest.raises(UserError, match=r"shard-00000\.parquet, it is damaged: .*restore it"):
        [ClipLoader(uri, manifest, Batching(batch_size=1, seed=0)).load(index) for index in range(70)]
