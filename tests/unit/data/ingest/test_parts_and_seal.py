"""Parts, seal and manifest together: the exactly-once mechanics without Ray or a VAE."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff import storage
from animatediff.data import shards
from animatediff.data.ingest import parts, seal
from animatediff.data.manifest import read_manifest
from animatediff.errors import UserError
from tests.support_data import clip_row, commit, do_seal, make_dataset, make_videos, plan


def content(dataset):
    files = sorted(p for p in Path(dataset).rglob("*") if p.is_file())
    return {str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_video_is_in_one_shard_or_in_quarantine(tmp_path):
    dataset = str(tmp_path)
    manifest, _ = make_dataset(dataset, 20)
    assert len(manifest.shards) > 1
    rows = []
    for shard in manifest.shards:
        data = storage.read_bytes(storage.join(dataset, shard.path))
        assert shards.sha256(data) == shard.sha256
        assert shards.read_footer(data)["encoder_fp"] == "fp"
        table = shards.from_parquet(data)
        assert table.schema.names == shards.SCHEMA.names
        assert table["clip_id"].to_pylist() == sorted(table["clip_id"].to_pylist())
        rows += table.to_pylist()
    quarantined = seal.read_quarantine(dataset)["video_id"].to_pylist()
    assert sorted([r["video_id"] for r in rows] + quarantined) == sorted(v.video_id for v in make_videos(20))
    assert manifest.quarantined == {"empty": 4}
    assert (manifest.num_clips, manifest.num_videos, manifest.num_units) == (16, 16, 7)
    assert shards.latent_from_row(rows[0]).shape == (2, 4, 2, 2)
    assert parts.committed_unit_ids(dataset) == set()
    assert read_manifest(dataset) == manifest


def test_parts_of_an_earlier_release_are_sealed_with_those_of_this_one(tmp_path, monkeypatch):
    dataset, size = str(tmp_path), {"original_height": 720, "original_width": 1280, "crop_top": 0, "crop_left": 14}
    units, _ = plan(dataset, make_videos(2), per_unit=1)
    schema = pa.schema(field for field in shards.SCHEMA if field.name not in size)
    with monkeypatch.context() as earlier:
        earlier.setattr(shards, "SCHEMA", schema)
        commit(dataset, units[0])
    parts.commit(dataset, units[1].unit_id, [clip_row(make_videos(2)[1], units[1].unit_id, **size)], [])
    (shard,) = do_seal(dataset, units, shard_bytes=10_000).shards
    rows = shards.read_columns(storage.join(dataset, shard.path), ["clip_id", *size]).to_pylist()
    assert rows == [{"clip_id": "v0-0"} | dict.fromkeys(size), {"clip_id": "v1-0"} | size]


@settings(max_examples=15)
@given(data=st.data())
def test_killed_anywhere_ends_with_the_same_bytes(tmp_path_factory, data):
    straight = str(tmp_path_factory.mktemp("straight"))
    make_dataset(straight, 12)

    killed = str(tmp_path_factory.mktemp("killed"))
    units, _ = plan(killed, make_videos(12))
    for unit in data.draw(st.permutations(units)):
        commit(killed, unit)
        if data.draw(st.booleans()):
            commit(killed, unit)  # committed, but killed before it was reported
    steps = {"writes": data.draw(st.integers(0, 12))}

    def dying(real):
        def call(*args):
            if steps["writes"] == 0:
                raise KeyboardInterrupt
            steps["writes"] -= 1
            return real(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_bytes", "delete"):
            patch.setattr(storage, name, dying(getattr(storage, name)))
        with contextlib.suppress(KeyboardInterrupt):
            do_seal(killed, units)
    if not storage.exists(storage.join(killed, "manifest.json")):
        do_seal(killed, units)
    seal.delete_sealed_parts(killed, [unit.unit_id for unit in units])
    assert content(killed) == content(straight)


def test_new_videos_become_further_units_and_shards(tmp_path):
    dataset = str(tmp_path)
    first, old = make_dataset(dataset, 7)
    units, _ = plan(dataset, make_videos(11))
    assert units[: len(old)] == old
    for unit in units[len(old) :]:
        commit(dataset, unit)
    second = do_seal(dataset, units)
    assert second.shards[: len(first.shards)] == first.shards
    assert (second.num_clips, second.num_videos) == (9, 9)
    assert seal.read_quarantine(dataset)["video_id"].to_pylist() == ["v4", "v9"]
    assert second.digest() != first.digest()


def test_shapes_lie_in_shards_of_their_own(tmp_path):
    dataset = str(tmp_path)
    manifest, _ = make_dataset(dataset, 20, side=lambda number: 32 if number % 3 == 0 else 16)
    clips = {}
    for shard in manifest.shards:
        table = shards.from_parquet(storage.read_bytes(storage.join(dataset, shard.path)))
        assert set(table["bucket"].to_pylist()) == {shard.bucket}
        assert shard.path.startswith(f"bucket={shard.bucket}/shard-0000")
        clips.setdefault(shard.bucket, []).extend(table["video_id"].to_pylist())
    numbers = {bucket: sorted(int(name[1:]) for name in names) for bucket, names in clips.items()}
    good = [i for i in range(20) if i % 5 != 4]
    assert numbers == {"2x32x32": [i for i in good if i % 3 == 0], "2x16x16": [i for i in good if i % 3]}
    assert len({shard.path for shard in manifest.shards}) == len(manifest.shards)


def test_a_quarantined_video_that_is_tried_again_moves_to_a_shard_or_gets_a_new_row(tmp_path):
    dataset = str(tmp_path)
    make_dataset(dataset, 10)  # v4 and v9 are rejected
    again = [video for video in make_videos(10) if video.video_id in ("v4", "v9")]
    units, _ = plan(dataset, make_videos(10), again=again)
    commit(dataset, units[-1], rejects=lambda number: number == 9)
    manifest = do_seal(dataset, units, again=again)
    assert (manifest.num_videos, manifest.quarantined) == (9, {"empty": 1})
    rows = seal.read_quarantine(dataset).to_pylist()
    assert [(row["video_id"], row["unit_id"]) for row in rows] == [("v9", units[-1].unit_id)]


def test_a_dataset_of_rejects_only_is_sealed_too(tmp_path):
    manifest, _ = make_dataset(str(tmp_path), 5, rejects=lambda number: True)
    assert (manifest.num_clips, manifest.shards, manifest.quarantined) == (0, [], {"empty": 5})


def test_a_damaged_part_is_named(tmp_path):
    dataset = str(tmp_path)
    units, _ = plan(dataset, make_videos(3))
    commit(dataset, units[0])
    path = Path(parts.part_uri(dataset, units[0].unit_id))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        UserError, match=f"cannot read .*{units[0].unit_id}.*delete it and run ingest again, which makes it anew"
    ):
        do_seal(dataset, units)


def test_missing_and_foreign_manifests(tmp_path):
    with pytest.raises(UserError, match=r"manifest.json is missing \(run pipelines/ingest.py\)"):
        read_manifest(str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps({"hello": 1}))
    with pytest.raises(UserError, match=r"no manifest of schema version 2: \w+: [^{]+$"):
        read_manifest(str(tmp_path))


def test_a_plan_that_lost_a_piece_is_not_continued(tmp_path):
    dataset = str(tmp_path)
    make_dataset(dataset, 4)
    plan(dataset, make_videos(8))
    segments = sorted((tmp_path / "plan").glob("*.parquet"))
    assert len(segments) == 2
    shutil.move(segments[0], tmp_path / "elsewhere")
    with pytest.raises(UserError, match="has a gap before segment-"):
        plan(dataset, make_videos(8))
