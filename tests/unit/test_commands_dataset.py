"""`animatediff show` and `verify`: what people learn of a dataset, in text and pictures."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from animatediff.commands import main
from animatediff.data.ingest import parts
from animatediff.data.ingest import plan as planning
from animatediff.data.inspection.histograms import histograms
from animatediff.data.manifest import read_manifest, write_manifest
from animatediff.models.vae import encode_frames, fingerprint
from animatediff.rendering.preview import choose
from animatediff.sprites import shipped
from animatediff.sprites.readings.pictures import read
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import caption, sample_scenes
from animatediff.weights.base import load_vae
from tests.support_data import clip_row, do_seal, make_dataset, make_videos, plan


def run(capsys, *argv):
    """Exit code, and what was written."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in argv])
    return ended.value.code, capsys.readouterr()


def test_show_counts_what_is_there(tmp_path, capsys):
    manifest, _ = make_dataset(str(tmp_path), 20, windows=2)
    code, said = run(capsys, "show", tmp_path)
    assert code == 0
    assert "clips        32 of 16 videos" in said.out
    assert "quarantined  4 empty" in said.out
    assert "2x16x16: 32" in said.out
    assert manifest.digest() in said.out
    assert "latent binary" in said.out


def test_show_tells_how_scores_are_spread_also_ones_own(tmp_path, capsys):
    dataset = str(tmp_path)
    units, _ = plan(dataset, make_videos(3))
    for unit in units:
        videos = planning.read_unit(dataset, unit).videos
        rows = [
            clip_row(video, unit.unit_id, motion=i / 10, scores=[("aesthetic", 5.0 + i)])
            for i, video in enumerate(videos)
        ]
        parts.commit(dataset, unit.unit_id, rows, [])
    do_seal(dataset, units)
    _, said = run(capsys, "show", dataset)
    lines = {line.split()[0]: line.split()[1:] for line in said.out.splitlines() if line}
    assert lines["score"] == ["p0", "p5", "p50", "p95", "p100"]
    assert lines["motion"][0::2] == ["0", "0.1", "0.2"]
    assert lines["aesthetic"][0::2] == ["5", "6", "7"]


def test_a_clip_is_followed_back_to_its_source(tmp_path, capsys):
    make_dataset(str(tmp_path), 12)
    code, said = run(capsys, "show", tmp_path, "--clip", "v7-0")
    lines = dict(line.split(maxsplit=1) for line in said.out.splitlines() if len(line.split()) > 1)
    assert code == 0
    assert (lines["source_uri"], lines["video_id"], lines["caption"]) == ("/videos/7.mp4", "v7", "caption 7")
    assert lines["shard"].startswith("bucket=2x16x16/shard-")
    assert lines["src_sha256"] == "sha-7"
    assert "latent" not in lines
    code, said = run(capsys, "show", tmp_path, "--clip", "v7-1")
    assert code == 1
    assert "has no clip 'v7-1'" in said.err


@pytest.fixture
def sprites_dataset(tmp_path):
    """Three sprite clips, encoded by the shipped base's VAE."""
    dataset = str(tmp_path / "dataset")
    vae = load_vae(str(shipped.BASE))
    scenes = sample_scenes(3, 0)
    videos = [replace(video, caption=caption(scene)) for video, scene in zip(make_videos(3), scenes, strict=True)]
    units, _ = plan(dataset, videos)
    rows = []
    for video, scene in zip(videos, scenes, strict=True):
        latents = encode_frames(vae, render(scene, num_frames=4, height=64, width=64))
        stored = {"latent": latents.tobytes(), "latent_shape": list(latents.shape), "bucket": "4x64x64"}
        rows.append(clip_row(video, units[0].unit_id) | stored)
    parts.commit(dataset, units[0].unit_id, rows, [])
    do_seal(dataset, units)
    manifest = read_manifest(dataset)
    write_manifest(dataset, manifest.model_copy(update={"encoder_fp": fingerprint(vae, "float32")}))
    return dataset, scenes


def test_the_preview_shows_the_clips(sprites_dataset, tmp_path, capsys):
    dataset, scenes = sprites_dataset
    code, said = run(capsys, "show", dataset, "--output", tmp_path / "out", "--base", shipped.BASE, "--num-clips", 2)
    assert code == 0, said.err
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["clip-00.gif", "clip-00.mp4", "clip-01.gif", "clip-01.mp4", "histograms.png", "preview.png"]
    sheet = np.asarray(Image.open(tmp_path / "out" / "preview.png").convert("RGB"))
    assert sheet.shape[1] == 4 * 128
    first = Image.fromarray(sheet[:128, :128]).resize((64, 64))
    assert read(np.asarray(first)).shape == scenes[0].shape
    gif = Image.open(tmp_path / "out" / "clip-00.gif")
    assert (gif.n_frames, gif.size) == (4, (64, 64))


def test_a_foreign_vae_and_a_dataset_without_a_base_are_refused(sprites_dataset, tmp_path, capsys):
    dataset, _ = sprites_dataset
    code, said = run(capsys, "show", dataset, "--output", tmp_path / "out")
    assert code == 2
    assert "config.yaml" in said.err
    make_dataset(str(tmp_path / "other"), 3)
    code, said = run(capsys, "show", tmp_path / "other", "--output", tmp_path / "out", "--base", shipped.BASE)
    assert code == 1
    assert "was encoded by another VAE than this base's" in said.err


def test_verify_says_what_is_wrong_and_its_code_tells_too(tmp_path, capsys):
    make_dataset(str(tmp_path), 12)
    code, said = run(capsys, "verify", tmp_path)
    assert (code, said.out.splitlines()[-1]) == (0, "everything is there, once")
    (tmp_path / read_manifest(str(tmp_path)).shards[0].path).unlink()
    code, said = run(capsys, "verify", tmp_path)
    assert code == 1
    assert "wrong: bucket=2x16x16/shard-00000.parquet is missing" in said.out
    code, said = run(capsys, "verify", tmp_path / "nowhere")
    assert (code, len(said.err.splitlines())) == (1, 1)


def test_shown_clips_are_spread_over_the_shards(tmp_path):
    manifest, _ = make_dataset(str(tmp_path), 30)
    chosen = choose(manifest, 5)
    assert len(chosen) == 5
    assert len({shard for shard, _ in chosen}) == 5
    assert choose(manifest, 1000) == [
        (s, row) for s, shard in enumerate(manifest.shards) for row in range(shard.num_clips)
    ]


def test_histograms_are_a_picture_of_every_score():
    rng = np.random.default_rng(0)
    one = Image.open(io.BytesIO(histograms([("motion", rng.random(100))])))
    four = Image.open(io.BytesIO(histograms([(name, rng.random(100)) for name in "abcd"])))
    assert four.height > one.height
    assert np.asarray(one.convert("L")).std() > 5
