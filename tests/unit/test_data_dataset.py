"""Plan, parts, seal and manifest together: the exactly-once mechanics without Ray or a VAE."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff import storage
from animatediff.data import parts, seal, shards
from animatediff.data import plan as planning
from animatediff.data.manifest import read_manifest
from animatediff.data.quarantine import Reason, Rejection
from animatediff.data.sources import SourceVideo
from animatediff.errors import UsageError, UserError

SETTINGS = {"clips": {"num_frames": 2}}
IDENTITY = seal.Identity("key", "fp", 0.18215, 2, "2x16x16")


def make_videos(num):
    return [SourceVideo(f"v{i}", f"/videos/{i}.mp4", f"caption {i}") for i in range(num)]


def commit(dataset, unit):
    """Every fifth video is rejected; the others' latents depend on their ids alone."""
    rows, rejected = [], []
    for video in unit.videos:
        number = int(video.video_id[1:])
        if number % 5 == 4:
            rejected.append(Rejection(video.video_id, video.uri, unit.unit_id, "probe", Reason.EMPTY, "0 bytes"))
            continue
        latent = np.full((2, 4, 2, 2), number, np.float16)
        rows.append(
            {
                "clip_id": f"{video.video_id}-0",
                "video_id": video.video_id,
                "unit_id": unit.unit_id,
                "caption": video.caption,
                "latent": latent.tobytes(),
                "latent_shape": list(latent.shape),
                "latent_dtype": "float16",
            }
        )
    parts.commit(dataset, unit, rows, rejected)


def do_seal(dataset, units, shard_bytes=1500):
    try:
        sealed = read_manifest(dataset)
    except UserError:
        sealed = None
    return seal.seal(dataset, units, sealed, identity=IDENTITY, rejected_in_plan=[], shard_bytes=shard_bytes)


def plan(videos, old=(), per_unit=3):
    return planning.extend(list(old), videos, key="key", videos_per_unit=per_unit)


def content(dataset):
    files = sorted(p for p in Path(dataset).rglob("*") if p.is_file())
    return {str(p.relative_to(dataset)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_video_is_in_one_shard_or_in_quarantine(tmp_path):
    dataset = str(tmp_path)
    units = plan(make_videos(20))
    for unit in units:
        commit(dataset, unit)
    manifest = do_seal(dataset, units)
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
    assert parts.committed(dataset) == set()
    assert read_manifest(dataset) == manifest


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_killed_anywhere_ends_with_the_same_bytes(tmp_path_factory, data):
    units = plan(make_videos(12))
    straight = str(tmp_path_factory.mktemp("straight"))
    for unit in units:
        commit(straight, unit)
    do_seal(straight, units)

    killed = str(tmp_path_factory.mktemp("killed"))
    order = data.draw(st.permutations(units))
    for unit in order:
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
        patch.setattr(storage, "write_bytes", dying(storage.write_bytes))
        patch.setattr(storage, "delete", dying(storage.delete))
        with contextlib.suppress(KeyboardInterrupt):
            do_seal(killed, units)
    if not storage.exists(storage.join(killed, "manifest.json")):
        do_seal(killed, units)
    seal.clean_up(killed, units)
    assert content(killed) == content(straight)


def test_new_videos_become_further_units_and_shards(tmp_path):
    dataset = str(tmp_path)
    old = plan(make_videos(7))
    for unit in old:
        commit(dataset, unit)
    first = do_seal(dataset, old)
    units = plan(make_videos(11), old)
    assert units[: len(old)] == old
    assert [v.video_id for unit in units[len(old) :] for v in unit.videos] == ["v7", "v8", "v9", "v10"]
    for unit in units[len(old) :]:
        commit(dataset, unit)
    second = do_seal(dataset, units)
    assert second.shards[: len(first.shards)] == first.shards
    assert (second.num_clips, second.num_videos) == (9, 9)
    assert seal.read_quarantine(dataset)["video_id"].to_pylist() == ["v4", "v9"]
    assert second.digest() != first.digest()


def test_a_dataset_of_rejects_only_is_sealed_too(tmp_path):
    units = plan(make_videos(5)[4:])
    commit(str(tmp_path), units[0])
    manifest = do_seal(str(tmp_path), units)
    assert (manifest.num_clips, manifest.shards, manifest.quarantined) == (0, [], {"empty": 1})


def test_plan_is_read_back_and_refuses_other_settings(tmp_path):
    units = plan(make_videos(5))
    planning.write_plan(str(tmp_path), units, SETTINGS)
    assert planning.read_plan(str(tmp_path), SETTINGS) == units
    with pytest.raises(UsageError, match="clips.num_frames: 2 -> 16"):
        planning.read_plan(str(tmp_path), {"clips": {"num_frames": 16}})
    assert planning.read_plan(str(tmp_path / "new"), SETTINGS) == []


def test_selection_sets_aside_with_a_reason():
    videos = [*make_videos(2), SourceVideo("v0", "/other.mp4", "again"), SourceVideo("v9", "/9.mp4", "")]
    videos += [SourceVideo(bad, "/x.mp4", "caption") for bad in ("", "/etc/passwd", "a/../../b")]
    chosen, rejected = planning.select(videos)
    assert chosen == make_videos(2)
    assert [(r.video_id, r.reason) for r in rejected] == [
        ("v0", Reason.DUPLICATE_ID),
        ("v9", Reason.NO_CAPTION),
        ("", Reason.BAD_ID),
        ("/etc/passwd", Reason.BAD_ID),
        ("a/../../b", Reason.BAD_ID),
    ]
    assert "/videos/0.mp4" in rejected[0].detail


def test_a_units_id_says_what_is_in_it():
    assert plan(make_videos(3))[0].unit_id != plan(make_videos(4)[1:])[0].unit_id
    assert plan(make_videos(3))[0].unit_id == plan(make_videos(9))[0].unit_id


def test_missing_and_foreign_manifests(tmp_path):
    with pytest.raises(UserError, match=r"manifest.json is missing \(run pipelines/ingest.py\)"):
        read_manifest(str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps({"hello": 1}))
    with pytest.raises(UserError, match="no manifest of schema version 1"):
        read_manifest(str(tmp_path))
