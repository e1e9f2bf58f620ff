import hashlib
from itertools import islice

import numpy as np
import pyarrow as pa
import pytest
import torch

from animatediff import storage
from animatediff.data.clips.source_crop import SourceCrop
from animatediff.data.loading import loader as loader_module
from animatediff.data.loading.loader import ClipLoader, latent_shapes
from animatediff.data.loading.order import Batching
from animatediff.data.loading.selection import ClipFilter
from animatediff.data.manifest import Manifest, Shard, read_manifest, write_manifest
from animatediff.data.shards import SCHEMA, from_parquet, to_parquet
from animatediff.errors import UserError


def write_dataset(folder, *, shards=(5, 3), shapes=((4, 4, 2, 2),), seed=0, source_crops=()):
    """Shards of random clips; the captions name the clips, the motion score is the clip's number. Shapes take turns.

    Of the shards that `source_crops` has none for, the files are those of a release that did not know it.
    """
    rng = np.random.default_rng(seed)
    entries, number = [], 0
    for i, num_clips in enumerate(shards):
        shape = shapes[i % len(shapes)]
        f, _, h, w = shape
        bucket = f"{f}x{8 * h}x{8 * w}"
        rows = []
        for _ in range(num_clips):
            latent = rng.standard_normal(shape).astype(np.float16)
            row = dict.fromkeys(SCHEMA.names) | {"clip_id": f"clip-{number:03}", "caption": f"caption {number}"}
            row |= {"latent": latent.tobytes(), "latent_shape": list(shape), "latent_dtype": "float16"}
            if i < len(source_crops):
                row |= source_crops[i]._asdict()
            rows.append(row | {"motion": float(number), "video_id": f"video-{number:03}"})
            number += 1
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        data = to_parquet(table if i < len(source_crops) else table.drop_columns(list(SourceCrop._fields)), {})
        path = f"bucket={bucket}/shard-{i:05}.parquet"
        storage.write_bytes(storage.join(str(folder), path), data)
        groups = [min(64, num_clips - first) for first in range(0, num_clips, 64)]
        entries.append(
            Shard(
                path=path,
                bucket=bucket,
                num_clips=num_clips,
                num_videos=num_clips,
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
            num_units=1,
            num_videos=number,
            num_clips=number,
            quarantined={},
            shards=entries,
        ),
    )
    return str(folder)


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_workers_sees_the_same_batches(tmp_path, world_size):
    uri = write_dataset(tmp_path)
    manifest = read_manifest(uri)
    alone = ClipLoader(uri, manifest, Batching(batch_size=4, seed=3))
    shares = [
        ClipLoader(uri, manifest, Batching(batch_size=4, seed=3, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for k in range(5):
        whole, parts = alone.load(k), [share.load(k) for share in shares]
        assert [clip for part in parts for clip in part.clip_ids] == whole.clip_ids
        assert [part.first_index for part in parts] == [rank * 4 // world_size for rank in range(world_size)]
        torch.testing.assert_close(torch.cat([part.latents for part in parts]), whole.latents, rtol=0, atol=0)


def test_the_stream_resumes_at_any_batch_and_counts_its_waits(tmp_path):
    uri = write_dataset(tmp_path)
    loader = ClipLoader(uri, read_manifest(uri), Batching(batch_size=3, seed=0))
    straight = [batch.clip_ids for batch in islice(loader.batches(), 7)]
    assert [batch.clip_ids for batch in islice(loader.batches(4), 3)] == straight[4:]
    assert loader.wait_s > 0


def test_latents_are_scaled_clips_with_their_captions(tmp_path):
    uri = write_dataset(tmp_path, shards=(2,))
    batch = ClipLoader(uri, read_manifest(uri), Batching(batch_size=2, seed=0)).load(0)
    stored = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4, 4, 2, 2))).half().float()
    assert batch.latents.shape == (2, 4, 4, 2, 2)
    assert batch.latents.dtype == torch.float32
    for latents, clip_id, caption in zip(batch.latents, batch.clip_ids, batch.captions, strict=True):
        number = int(clip_id.removeprefix("clip-"))
        assert caption == f"caption {number}"
        torch.testing.assert_close(latents, stored[number].transpose(0, 1) * 0.5)


def test_a_clip_brings_its_tags_and_a_shard_of_before_there_were_any_none(tmp_path):
    uri = write_dataset(tmp_path, shards=(3, 2))
    manifest = read_manifest(uri)
    newer, older = (tmp_path / shard.path for shard in manifest.shards)
    table = from_parquet(newer.read_bytes())
    tags = pa.array([["a", "b"], None, []], SCHEMA.field("tags").type)
    newer.write_bytes(to_parquet(table.set_column(table.schema.get_field_index("tags"), "tags", tags), {}))
    older.write_bytes(to_parquet(from_parquet(older.read_bytes()).drop_columns("tags"), {}))
    batch = ClipLoader(uri, manifest, Batching(batch_size=5, seed=0)).load(0)
    assert dict(zip(batch.clip_ids, batch.tags, strict=True)) == {"clip-000": ("a", "b")} | {
        f"clip-{number:03}": () for number in range(1, 5)
    }


def test_a_clip_brings_what_it_was_cropped_from_where_its_shard_says_so(tmp_path):
    crop = SourceCrop(720, 1280, 0, 14)
    uri = write_dataset(tmp_path, shards=(2, 3), source_crops=(crop,))
    batch = ClipLoader(uri, read_manifest(uri), Batching(batch_size=5, seed=0)).load(0)
    told = dict(zip(batch.clip_ids, batch.source_crops, strict=True))
    assert told == {f"clip-{i:03}": crop if i < 2 else None for i in range(5)}


def test_where_knows_the_sizes_of_the_sources(tmp_path):
    uri = write_dataset(tmp_path, shards=(2, 3), source_crops=(SourceCrop(720, 1280, 0, 14),))
    chosen = ClipFilter(where="original_height >= 720")
    assert ClipLoader(uri, read_manifest(uri), Batching(batch_size=1, seed=0), chosen).num_clips == 2


def test_a_row_group_is_read_once(tmp_path, monkeypatch):
    uri = write_dataset(tmp_path, shards=(70, 64))
    reads = []
    real = loader_module.read_row_group
    monkeypatch.setattr(loader_module, "read_row_group", lambda *args: (reads.append(args[:2]), real(*args))[1])
    loader = ClipLoader(uri, read_manifest(uri), Batching(batch_size=2, seed=0))
    for k in range(67):
        loader.load(k)
    assert sorted(reads) == sorted(set(reads))


def test_a_missing_shard_is_told_when_its_batch_is_due(tmp_path):
    uri = write_dataset(tmp_path)
    (tmp_path / "bucket=4x16x16" / "shard-00000.parquet").unlink()
    loader = ClipLoader(uri, read_manifest(uri), Batching(batch_size=8, seed=0))
    with pytest.raises(UserError, match="shard-00000.parquet is missing: restore it"):
        next(loader.batches())


def test_clips_of_several_shapes_come_in_batches_of_one(tmp_path):
    uri = write_dataset(tmp_path, shards=(5, 3, 4), shapes=((4, 4, 2, 2), (8, 4, 1, 2)))
    manifest = read_manifest(uri)
    assert latent_shapes(uri, manifest) == [(4, 4, 2, 2), (8, 4, 1, 2)]
    loader = ClipLoader(uri, manifest, Batching(batch_size=3, seed=0))
    batches = [loader.load(k) for k in range(4)]  # three batches of nine clips, one of three
    assert {batch.latents.shape for batch in batches} == {(3, 4, 4, 2, 2), (3, 4, 8, 1, 2)}
    seen = sorted(clip for batch in batches for clip in batch.clip_ids)
    assert seen == [f"clip-{i:03}" for i in range(12)]


def test_where_chooses_clips(tmp_path):
    uri = write_dataset(tmp_path, shards=(70, 66))
    loader = ClipLoader(
        uri, read_manifest(uri), Batching(batch_size=4, seed=0), ClipFilter(where="motion >= 60 and motion < 80")
    )
    assert loader.num_clips == 20
    epoch = [clip for k in range(5) for clip in loader.load(k).clip_ids]
    assert sorted(epoch) == [f"clip-{i:03}" for i in range(60, 80)]
    with pytest.raises(UserError, match=r"no clip of .* fulfils 'motion > 1000'"):
        ClipLoader(uri, read_manifest(uri), Batching(batch_size=4, seed=0), ClipFilter(where="motion > 1000"))


def test_empty_datasets_are_refused(tmp_path):
    manifest = read_manifest(write_dataset(tmp_path))
    empty = manifest.model_copy(update={"shards": [], "num_clips": 0})
    with pytest.raises(UserError, match="no clip"):
        ClipLoader(str(tmp_path), empty, Batching(batch_size=2, seed=0))
