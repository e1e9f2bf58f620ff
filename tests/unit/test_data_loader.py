import hashlib
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff import storage
from animatediff.data import loader as loader_module
from animatediff.data.loader import ClipLoader, ClipOrder, latent_shape
from animatediff.data.manifest import Manifest, Shard, read_manifest, write_manifest
from animatediff.data.shards import SCHEMA, to_parquet
from animatediff.errors import UserError

GROUPS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(sum)
BATCH = st.integers(1, 9)


def write_dataset(folder, *, shards=(5, 3), shape=(4, 4, 2, 2), seed=0, bucket="x"):
    """Shards of random clips; the captions name the clips."""
    rng = np.random.default_rng(seed)
    entries, number = [], 0
    for i, num_clips in enumerate(shards):
        rows = []
        for _ in range(num_clips):
            latent = rng.standard_normal(shape).astype(np.float16)
            row = dict.fromkeys(SCHEMA.names) | {"clip_id": f"clip-{number:03}", "caption": f"caption {number}"}
            row |= {"latent": latent.tobytes(), "latent_shape": list(shape), "latent_dtype": "float16"}
            rows.append(row)
            number += 1
        data = to_parquet(pa.Table.from_pylist(rows, schema=SCHEMA), {})
        path = f"bucket={bucket}/shard-{i:05}.parquet"
        storage.write_bytes(storage.join(str(folder), path), data)
        groups = [min(64, num_clips - first) for first in range(0, num_clips, 64)]
        entries.append(
            Shard(
                path=path,
                bucket=bucket,
                num_clips=num_clips,
                row_group_rows=groups,
                num_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    write_manifest(
        str(folder),
        Manifest(
            dataset_key="key",
            encoder_fp="fp",
            scaling_factor=0.5,
            num_frames=shape[0],
            num_units=1,
            num_videos=number,
            num_clips=number,
            quarantined={},
            shards=entries,
        ),
    )
    return str(folder)


@settings(deadline=None)
@given(groups=GROUPS, batch_size=BATCH, seed=st.integers(0, 99))
def test_every_epoch_has_every_clip_once(groups, batch_size, seed):
    order = ClipOrder(groups, batch_size=batch_size, seed=seed)
    everything = sorted((g, r) for g, rows in enumerate(groups) for r in range(rows))
    num_batches = -(-3 * len(everything) // batch_size)
    line = [place for k in range(num_batches) for place in order.batch(k)]
    for epoch in range(3):
        assert sorted(line[epoch * len(everything) : (epoch + 1) * len(everything)]) == everything


@settings(deadline=None)
@given(groups=GROUPS, batch_size=BATCH, start=st.integers(0, 40))
def test_a_batch_depends_on_its_number_alone(groups, batch_size, start):
    walked, fresh = (ClipOrder(groups, batch_size=batch_size, seed=1) for _ in range(2))
    straight = [walked.batch(k) for k in range(start + 1)]
    assert fresh.batch(start) == straight[start]


def test_epochs_and_seeds_differ():
    groups = [64] * 8
    epochs = [[ClipOrder(groups, batch_size=8, seed=s).batch(64 * e + k) for k in range(64)] for s, e in
              [(0, 0), (0, 1), (1, 0)]]  # fmt: skip
    assert epochs[0] != epochs[1]
    assert epochs[0] != epochs[2]


def test_a_batch_mixes_row_groups_and_a_worker_opens_only_its_share():
    order = ClipOrder([64] * 16, batch_size=8, seed=0)
    epoch = [order.batch(k) for k in range(128)]
    assert all(len({place.group for place in batch}) == 8 for batch in epoch)
    opened = [{place.group for batch in epoch for place in batch[r * 2 : r * 2 + 2]} for r in range(4)]
    assert [len(groups) for groups in opened] == [4, 4, 4, 4]


def test_an_order_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one clip"):
        ClipOrder([0], batch_size=2, seed=0)


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_workers_sees_the_same_batches(tmp_path, world_size):
    uri = write_dataset(tmp_path)
    manifest = read_manifest(uri)
    alone = ClipLoader(uri, manifest, batch_size=4, seed=3)
    shares = [
        ClipLoader(uri, manifest, batch_size=4, seed=3, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    for k in range(5):
        whole, parts = alone.load(k), [share.load(k) for share in shares]
        assert [clip for part in parts for clip in part.clip_ids] == whole.clip_ids
        assert [part.first_index for part in parts] == [rank * 4 // world_size for rank in range(world_size)]
        torch.testing.assert_close(torch.cat([part.latents for part in parts]), whole.latents, rtol=0, atol=0)


def test_the_stream_resumes_at_any_batch_and_counts_its_waits(tmp_path):
    uri = write_dataset(tmp_path)
    loader = ClipLoader(uri, read_manifest(uri), batch_size=3, seed=0)
    straight = [batch.clip_ids for batch in islice(loader.batches(), 7)]
    assert [batch.clip_ids for batch in islice(loader.batches(4), 3)] == straight[4:]
    assert loader.wait_s > 0


def test_latents_are_scaled_clips_with_their_captions(tmp_path):
    uri = write_dataset(tmp_path, shards=(2,))
    batch = ClipLoader(uri, read_manifest(uri), batch_size=2, seed=0).load(0)
    stored = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4, 4, 2, 2))).half().float()
    assert batch.latents.shape == (2, 4, 4, 2, 2)
    assert batch.latents.dtype == torch.float32
    for latents, clip_id, caption in zip(batch.latents, batch.clip_ids, batch.captions, strict=True):
        number = int(clip_id.removeprefix("clip-"))
        assert caption == f"caption {number}"
        torch.testing.assert_close(latents, stored[number].transpose(0, 1) * 0.5)


def test_a_row_group_is_read_once(tmp_path, monkeypatch):
    uri = write_dataset(tmp_path, shards=(70, 64))
    reads = []
    real = loader_module.read_row_group
    monkeypatch.setattr(loader_module, "read_row_group", lambda *args: (reads.append(args[:2]), real(*args))[1])
    loader = ClipLoader(uri, read_manifest(uri), batch_size=2, seed=0)
    for k in range(67):
        loader.load(k)
    assert sorted(reads) == sorted(set(reads))


def test_a_missing_shard_is_told_when_its_batch_is_due(tmp_path):
    uri = write_dataset(tmp_path)
    (tmp_path / "bucket=x" / "shard-00000.parquet").unlink()
    loader = ClipLoader(uri, read_manifest(uri), batch_size=8, seed=0)
    with pytest.raises(UserError, match="cannot read shard"):
        next(loader.batches())


def test_the_shape_is_read_from_the_data(tmp_path):
    uri = write_dataset(tmp_path)
    assert latent_shape(uri, read_manifest(uri)) == (4, 4, 2, 2)


def test_mixed_shapes_and_empty_datasets_are_refused(tmp_path):
    manifest = read_manifest(write_dataset(tmp_path))
    other = manifest.shards[1].model_copy(update={"bucket": "y"})
    mixed = manifest.model_copy(update={"shards": [manifest.shards[0], other]})
    with pytest.raises(UserError, match="mixes the shapes x, y"):
        ClipLoader(str(tmp_path), mixed, batch_size=2, seed=0)
    empty = manifest.model_copy(update={"shards": [], "num_clips": 0})
    with pytest.raises(UserError, match="no clip"):
        ClipLoader(str(tmp_path), empty, batch_size=2, seed=0)
