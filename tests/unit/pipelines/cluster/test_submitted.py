"""What a job does that `ray job submit` started, whose working directory is lost with it."""

import getpass
from pathlib import Path

import pytest
import yaml

from animatediff.config import load
from animatediff.errors import UsageError
from pipelines import embedded
from pipelines.cluster.submitted import refuse_relative_outputs, runs_folder
from pipelines.settings import AnimateConfig, ScoreConfig, TrainJobConfig
from pipelines.tracking.tracker import tracking_uri


@pytest.fixture
def submitted(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def config(output_uri):
    return ScoreConfig(output_uri=output_uri, scorer="a:b")


@pytest.mark.parametrize(
    "uri", ["runs/a", "a", "./a", "../a", "", "file:runs/a", "file://runs/a", "local://a", "~nobody-has-this-name/a"]
)
def test_relative_outputs_are_refused(submitted, uri):
    with pytest.raises(UsageError, match=r"output_uri: .* name an absolute path .* or a URI") as caught:
        refuse_relative_outputs(config(uri))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["/data/a", "~/a", f"~{getpass.getuser()}/a", "file:///data/a", "s3://bucket/a"])
def test_outputs_that_last_are_taken(submitted, uri):
    refuse_relative_outputs(config(uri))


def test_elsewhere_relative_outputs_are_fine(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/mlflow.db")
    refuse_relative_outputs(config("runs/a"))
    assert runs_folder() == Path("runs").resolve()


@pytest.mark.parametrize(
    ("uri", "lasts"),
    [
        ("sqlite:///runs/mlflow.db", False),
        ("sqlite+pysqlite:///mlflow.db", False),
        ("mlruns", False),
        ("file:./mlruns", False),
        ("sqlite:////data/mlflow.db", True),
        ("/data/mlruns", True),
        ("http://mlflow:5000", True),
        ("postgresql://user:secret@host/mlflow", True),
        ("databricks", True),
    ],
)
def test_where_mlflow_is_must_last_too(submitted, monkeypatch, uri, lasts):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    if lasts:
        refuse_relative_outputs(config("/data/a"))
    else:
        with pytest.raises(UsageError, match="MLFLOW_TRACKING_URI: .* depends on the working directory"):
            refuse_relative_outputs(config("/data/a"))


def test_the_embedded_default_writes_beneath_the_home_folder(submitted, tmp_path):
    runs = tmp_path / "home" / "animatediff-runs"
    assert tracking_uri() == f"sqlite:///{runs}/mlflow.db"
    train = load(TrainJobConfig, embedded.config_uri("train"))
    assert (train.dataset_uri, train.output_uri) == (f"{runs}/sprites/dataset", f"{runs}/sprites/train")
    animate = load(AnimateConfig, embedded.config_uri("animate"))
    catalog = yaml.safe_load(Path(animate.catalog_uri).read_text())
    assert catalog["motion_module"] == f"{runs}/sprites/train/motion_module.safetensors"
    for job in (train, animate):
        refuse_relative_outputs(job)
