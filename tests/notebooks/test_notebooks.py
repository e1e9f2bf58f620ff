"""Each notebook runs in a folder of its own, and what it shows is what it says."""

import os
import re

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from animatediff.rendering.results.ledger import read_results
from animatediff.rendering.scoring import mean_scores
from tests.notebooks.execution import ROOT, execute, is_drawn, moves


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Execute a notebook as in a new installation of the project."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}/tests/integration/as_installed{os.pathsep}{ROOT}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # else every run is in the user's history
    return lambda name: execute(name, tmp_path)


def test_a_collection_becomes_a_data_set(run):
    done = run("01_collection_to_dataset")
    quarantine = pd.read_parquet(done.folder / "runs/01/dataset/quarantine.parquet")
    assert sorted(quarantine["reason"]) == ["empty", "not_video", "truncated"]
    assert "21 clips of 21 videos" in done.printed
    assert "24 videos were planned, 21 clips are there\nwrong: nothing" in done.printed
    sheet, histograms, latents = done.pictures
    assert all(map(is_drawn, (sheet, histograms, latents)))
    (clips,) = done.clips
    assert moves(clips)


def test_a_motion_module_learns_and_mlflow_tells(run):
    done = run("02_motion_module")
    client = MlflowClient(f"sqlite:///{done.folder}/runs/mlflow.db")
    (version,) = client.search_model_versions("name = 'chalk'")
    assert fell(client, version.run_id, num_steps=32, to=0.5)
    sheet, curves = done.pictures
    assert is_drawn(sheet)
    assert is_drawn(curves)
    (compared,) = done.clips
    assert moves(compared)


def test_a_catalog_is_rendered_compared_and_scored(run):
    done = run("03_catalog")
    results = pd.read_parquet(done.folder / "runs/03/clips/results.parquet")
    assert results.groupby("entry")["status"].agg(["unique", "size"]).to_dict("index") == {
        "base": {"unique": ["ok"], "size": 3},
        "inversion-brown": {"unique": ["ok"], "size": 1},
        "lora-chalk": {"unique": ["ok"], "size": 3},
        "lost": {"unique": ["invalid"], "size": 3},
    }
    means = mean_scores(read_results(str(done.folder / "runs/03/clips")), "animatediff.sprites.scoring:score")
    assert means.keys() == {"base", "lora-chalk", "inversion-brown"}
    assert means["base"]["shape"] > 0.9
    assert means["lora-chalk"]["style"] > 0.5
    (grid,) = done.clips
    assert moves(grid)
    (scores,) = done.pictures
    assert is_drawn(scores)


def test_a_folder_of_videos_becomes_a_domain_adapter(run):
    done = run("04_own_domain")
    quarantine = pd.read_parquet(done.folder / "runs/04/dataset/quarantine.parquet")
    assert quarantine[["video_id", "reason"]].to_numpy().tolist() == [["drawing-31.mp4", "no_caption"]]
    assert "not taken    1 .db" in done.printed
    client = MlflowClient(f"sqlite:///{done.folder}/runs/mlflow.db")
    (version,) = client.search_model_versions("name = 'chalk-adapter'")
    assert fell(client, version.run_id, num_steps=80, to=0.6)
    sheet, curve = done.pictures
    assert is_drawn(sheet)
    assert is_drawn(curve)
    (grid,) = done.clips
    assert moves(grid)


def fell(client, run_id, *, num_steps, to):
    """Whether the mean loss of the last ten steps is at most `to` times that of the first ten."""
    points = sorted(client.get_metric_history(run_id, "loss"), key=lambda point: point.step)
    losses = [point.value for point in points]
    assert len(losses) == num_steps
    return np.mean(losses[-10:]) <= to * np.mean(losses[:10])


def test_the_library_works_without_ray(run):
    done = run("05_library")
    assert "the base is back to the last bit: True" in done.printed
    assert all(map(moves, done.clips))
    assert [len(clip) for clip in done.clips] == [16, 16, 16, 16, 32]
    (difference,) = re.findall(r"difference to the first picture: (0\.\d+)", done.printed)
    assert float(difference) < 0.05
    (rows,) = done.pictures
    assert is_drawn(rows)
