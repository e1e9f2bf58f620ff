"""The animate job on a real local Ray cluster."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.sprites.base import build_base
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines import score
from pipelines.animate import main
from pipelines.settings import AnimateConfig, ScoreConfig

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    base, other = build_base(folder / "base"), build_base(folder / "other", seed=1)
    motion = MotionModules.for_base(load_unet(str(base)), MotionConfig())
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    (folder / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    torch.save({}, folder / "lora.safetensors")
    content = {
        "base": str(base),
        "motion_module": str(folder / "motion.safetensors"),
        "width": 32,
        "height": 32,
        "num_frames": 4,
        "num_inference_steps": 2,
        "entries": [
            {"name": "bare", "prompts": ["a red circle", "a blue square"]},
            {"name": "broken-checkpoint", "checkpoint": str(folder / "checkpoint.safetensors"), "prompts": ["a star"]},
            {"name": "broken-lora", "loras": [{"path": str(folder / "lora.safetensors")}], "prompts": ["a star"]},
            {"name": "other", "checkpoint": str(other), "prompts": ["a red circle"], "fps": 12},
            {"name": "same-as-bare", "prompts": ["a red circle"]},
        ],
    }
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(catalog, output):
    return main(AnimateConfig(catalog_uri=str(catalog), output_uri=str(output)))


def test_broken_entries_fail_alone_and_a_rerun_renders_what_is_missing(catalog, tmp_path, caplog):
    caplog.set_level("INFO", logger="pipelines")
    with pytest.raises(UserError, match=r"2 of 6 items failed, first error \(entry broken-checkpoint\)") as caught:
        run(catalog, tmp_path)
    assert caught.value.exit_code == 1
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [(row["entry"], row["status"]) for row in rows] == [
        ("bare", "ok"),
        ("bare", "ok"),
        ("broken-checkpoint", "failed"),
        ("broken-lora", "failed"),
        ("other", "ok"),
        ("same-as-bare", "ok"),
    ]
    assert "is no weights file" in rows[2]["error"]
    assert rows[5]["digest"] == rows[0]["digest"]
    assert rows[5]["mp4_uri"] == rows[0]["mp4_uri"]
    for row in rows:
        if row["status"] == "ok":
            data = Path(row["mp4_uri"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == row["mp4_sha256"]
    clips = sorted((tmp_path / "clips").iterdir())
    assert len(clips) == 2 * 3
    assert (tmp_path / "index.html").read_text().count("<article") == 6

    # Mend one entry, lose one clip: a rerun renders these and nothing else.
    content = yaml.safe_load(catalog.read_text())
    content["entries"] = [entry for entry in content["entries"] if not entry["name"].startswith("broken")]
    mended = tmp_path / "mended.yaml"
    mended.write_text(yaml.safe_dump(content))
    lost = next(path for path in clips if path.name == f"{rows[1]['digest'][:16]}.mp4")
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    results = run(mended, tmp_path)
    assert [result.status for result in results] == ["ok"] * 4
    assert results[1].mp4_sha256 == rows[1]["mp4_sha256"]
    assert "1 of 4 items to render" in caplog.text
    changed = [path for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert all(path.name.startswith(rows[1]["digest"][:16]) for path in changed)

    run(mended, tmp_path)
    assert "nothing to render: all 4 items are there" in caplog.text


def scored(output, **options):
    score.main(ScoreConfig(output_uri=str(output), **{"scorer": "animatediff.sprites.scoring:score"} | options))
    return pq.read_table(output / "results.parquet").to_pylist()


def test_clips_are_scored_once_and_keep_their_scores(catalog, tmp_path):
    content = yaml.safe_load(catalog.read_text())
    content["entries"] = [entry for entry in content["entries"] if entry["name"] in ("bare", "same-as-bare")]
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(content))
    output = tmp_path / "out"
    run(path, output)
    rows = scored(output)
    for row in rows:
        assert {"shape", "colour", "style", "stays itself"} <= dict(row["scores"]).keys()
        assert (row["scored_by"], row["score_error"]) == ("animatediff.sprites.scoring:score", None)
    assert rows[2]["scores"] == rows[0]["scores"]  # one clip, two entries
    assert "<table>" in (output / "index.html").read_text()

    # Scored already: nothing is read, not even a clip that is broken by now.
    clip = Path(rows[1]["mp4_uri"])
    whole = clip.read_bytes()
    clip.write_bytes(b"not a video")
    assert scored(output) == rows
    run(path, output)  # the animate job finds the clips, and leaves the scores
    assert pq.read_table(output / "results.parquet").to_pylist() == rows

    again = scored(output, again=True)
    assert again[0] == rows[0]
    assert (again[1]["scores"], again[1]["status"]) == ([], "ok")
    assert "not_video" in again[1]["score_error"]
    assert "no scores: " in (output / "index.html").read_text()

    # A clip that kills whoever measures it costs no other clip its scores.
    clip.write_bytes(whole)
    crashed = scored(output, again=True, scorer="tests.integration.crashing_scorer:crash_on_red")
    assert (crashed[0]["prompt"], crashed[0]["scores"]) == ("a red circle", [])
    assert "the worker crashed" in crashed[0]["score_error"]
    assert (crashed[1]["prompt"], crashed[1]["scores"]) == ("a blue square", [("length", 4.0)])


def test_scoring_what_was_never_rendered_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="render a catalog there first"):
        scored(tmp_path)


def test_a_catalog_with_missing_files_ends_before_anything_is_written(catalog, tmp_path):
    content = yaml.safe_load(catalog.read_text())
    content["entries"][0]["checkpoint"] = "gone.safetensors"
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="entry 'bare': there is no file or folder gone.safetensors"):
        run(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
