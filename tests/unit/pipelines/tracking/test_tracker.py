import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch
from mlflow import MlflowClient

from animatediff import storage
from animatediff.uris import with_secrets
from pipelines.tracking import tracker as tracking
from pipelines.tracking.run_context import DataInput, flatten
from pipelines.tracking.tracker import Tracker, long_waits, open_client, tracking_uri


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A database without runs: MLflow takes seconds to make its tables."""
    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def workplace(tables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(tables, "runs")


def open_tracker(run_id=None):
    return Tracker("test", run_id=run_id, params={"optim.lr": 0.1}, tags={"dataset_key": "k"})


def fail_in(tracker):
    with tracker:
        tracker.log_metrics(20, {"loss": 1.0})
        tracker.log_metrics(30, {"loss": 0.5})
        raise RuntimeError("the job failed")


def test_a_run_is_tracked_and_continued_without_doubled_steps(tmp_path, capfd):
    with open_tracker() as first:
        first.log_metrics(10, {"loss": 2.0})
        first.log_metrics(20, {"loss": 1.0})
        first.log_file("config.yaml", b"a: 1")
        first.log_file("validation/step-00000500/0.mp4", b"frames")
    second = open_tracker(first.run_id)
    with pytest.raises(RuntimeError):
        fail_in(second)
    client = MlflowClient(tracking_uri())
    run = client.get_run(first.run_id)
    assert second.run_id == first.run_id
    assert run.info.run_name == "test"
    assert run.info.status == "FAILED"
    assert run.data.params == {"optim.lr": "0.1"}
    assert run.data.tags["dataset_key"] == "k"
    assert [(m.step, m.value) for m in client.get_metric_history(first.run_id, "loss")] == [
        (10, 2.0),
        (20, 1.0),
        (30, 0.5),
    ]
    artifacts = tmp_path / "runs" / "mlartifacts" / first.run_id / "artifacts"
    assert (artifacts / "config.yaml").read_bytes() == b"a: 1"
    assert (artifacts / "validation" / "step-00000500" / "0.mp4").read_bytes() == b"frames"
    assert capfd.readouterr() == ("", "")


def test_an_unreachable_server_costs_one_warning_and_little_time(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), open_tracker() as tracker:
        tracker.log_metrics(1, {"loss": 1.0})
        tracker.log_file("config.yaml", b"a: 1")
        assert tracker.register("moves", "motion_module.safetensors", tags={}) is None
    assert tracker.run_id is None
    assert time.monotonic() - start < 20
    assert [record.name for record in caplog.records] == ["pipelines.tracking.tracker"]
    assert "\n" not in caplog.records[0].getMessage()


def test_metrics_of_an_outage_are_sent_when_it_is_over(monkeypatch, caplog):
    with open_tracker() as tracker:
        real = tracker._client.log_batch
        monkeypatch.setattr(tracker._client, "log_batch", lambda *_, **__: 1 / 0)
        for step in (1, 2, 3):
            tracker.log_metrics(step, {"loss": 1.0})
        assert not tracker.answers
        monkeypatch.setattr(tracker._client, "log_batch", real)
    assert tracker.answers
    history = MlflowClient(tracking_uri()).get_metric_history(tracker.run_id, "loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert len(caplog.records) == 1


def fail(error):
    raise error


def come_back(monkeypatch, failures):
    """Let the server fail so often, and be asked again at once."""
    monkeypatch.setattr(tracking, "_RETRY_AFTER_S", 0.0)
    left = [ConnectionError("away")] * failures
    monkeypatch.setattr(tracking, "open_client", lambda: open_client() if not left else fail(left.pop()))
    return left


def test_a_server_that_comes_later_gets_all_since_the_start(monkeypatch, caplog):
    left = come_back(monkeypatch, failures=3)
    with open_tracker() as tracker:
        tracker.log_file("config.yaml", b"a: 1")
        assert tracker.run_id is None
        for step in (1, 2, 3):
            tracker.log_metrics(step, {"loss": float(step)})
    assert not left
    client = MlflowClient(tracking_uri())
    history = client.get_metric_history(tracker.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    run = client.get_run(tracker.run_id)
    assert (run.data.params, run.info.status) == ({"optim.lr": "0.1"}, "FINISHED")
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["config.yaml"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_run_that_is_continued_late_gets_no_step_twice(monkeypatch):
    with open_tracker() as first:
        for step in (10, 20):
            first.log_metrics(step, {"loss": 1.0})
    come_back(monkeypatch, failures=2)
    with open_tracker(first.run_id) as second:
        for step in (10, 20, 30):
            second.log_metrics(step, {"loss": 1.0})
    history = MlflowClient(tracking_uri()).get_metric_history(first.run_id, "loss")
    assert second.run_id == first.run_id
    assert [metric.step for metric in history] == [10, 20, 30]


def test_a_run_that_was_begun_half_is_begun_once(monkeypatch):
    monkeypatch.setattr(tracking, "_RETRY_AFTER_S", 0.0)
    real = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *_, **__: 1 / 0)
    with open_tracker() as tracker:
        assert tracker.run_id is None
        monkeypatch.setattr(MlflowClient, "log_batch", real)
        tracker.log_metrics(1, {"loss": 1.0})
    client = MlflowClient(tracking_uri())
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [run.info.run_id for run in runs] == [tracker.run_id]
    assert runs[0].data.params == {"optim.lr": "0.1"}


def versions_of(name):
    """(version, tags, content) of each."""
    versions = MlflowClient(tracking_uri()).search_model_versions(f"name = '{name}'", order_by=["version_number"])
    files = [Path(urlparse(version.source).path) / "motion_module.safetensors" for version in versions]
    return [(str(v.version), v.tags, file.read_bytes()) for v, file in zip(versions, files, strict=True)]


def test_a_rerun_registers_no_second_version_of_the_same_bytes(tmp_path):
    file = tmp_path / "motion_module.safetensors"
    file.write_bytes(b"one")
    with open_tracker() as first:
        assert first.register("moves", str(file), tags={"step": "10"}) == "1"
    with open_tracker(first.run_id) as again:
        assert again.register("moves", str(file), tags={"step": "10"}) == "1"
        assert again.register("of the same run", str(file), tags={}) == "1"
        file.write_bytes(b"two")
        assert again.register("moves", str(file), tags={"step": "20"}) == "2"
    assert versions_of("moves") == [
        ("1", {"step": "10", "sha256": hashlib.sha256(b"one").hexdigest()}, b"one"),
        ("2", {"step": "20", "sha256": hashlib.sha256(b"two").hexdigest()}, b"two"),
    ]


def test_a_file_in_remote_storage_is_registered(tmp_path):
    uri = f"memory://{tmp_path.name}/motion_module.safetensors"
    storage.write_bytes(uri, b"weights")
    with open_tracker() as tracker:
        assert tracker.register("moves", uri, tags={}) == "1"
    assert [content for *_, content in versions_of("moves")] == [b"weights"]


def test_a_server_without_a_registry_costs_one_warning_and_no_upload(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    file = tmp_path / "motion_module.safetensors"
    file.write_bytes(b"weights")
    with open_tracker() as tracker:
        assert tracker.register("moves", str(file), tags={}) is None
        assert tracker.register("moves", str(file), tags={}) is None
    (line,) = (record.getMessage() for record in caplog.records)
    assert "registers no model 'moves', the run goes on without it" in line
    assert "\n" not in line
    client = MlflowClient(tracking_uri(), registry_uri=tracking_uri())
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert client.list_artifacts(tracker.run_id) == []


def test_a_file_that_is_gone_costs_one_warning(tmp_path, caplog):
    with open_tracker() as tracker:
        assert tracker.register("moves", str(tmp_path / "gone.safetensors"), tags={}) is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("own", "inside"), [("10", "300"), ("45", "45")])
def test_waits_are_longer_for_files_unless_the_user_says_how_long(monkeypatch, own, inside):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", own)
    with long_waits():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == inside
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == own


def test_flatten():
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": None}}) == {"a": 1, "b.c.d": 2, "b.e": None}


def run_of(tracker):
    return MlflowClient(tracking_uri()).get_run(tracker.run_id)


def test_a_run_says_what_code_versions_and_data_it_is_of():
    data = DataInput("s3://key:secret@bucket/latents/anime/", "d" * 64, {"clips": 48})
    run_id = None
    for _ in range(2):
        with Tracker("run", run_id=run_id, params={}, tags={"device": "cpu"}, inputs=[data]) as tracker:
            run_id = tracker.run_id
    run = run_of(tracker)
    tags = run.data.tags
    assert tags["versions.torch"] == torch.__version__
    assert {"versions.animatediff", "versions.diffusers", "versions.ray", "versions.python"} <= tags.keys()
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} <= tags.keys()
    assert tags["device"] == "cpu"
    (found,) = run.inputs.dataset_inputs  # once, over two jobs
    assert (found.dataset.name, found.dataset.digest) == ("anime", "d" * 36)
    assert json.loads(found.dataset.source) == {"uri": "s3://bucket/latents/anime/"}
    assert found.dataset.source_type == "s3"
    assert json.loads(found.dataset.profile) == {"clips": 48}
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


@pytest.mark.parametrize(
    ("earlier", "kind"),
    [
        (None, "custom_model_development"),
        ({}, "custom_model_development"),  # of an earlier version
        ({"mlflow.experimentKind": "genai_development"}, "genai_development"),  # as a user chose
    ],
)
def test_runs_are_shown_among_trainings(earlier, kind):
    client = MlflowClient(tracking_uri())
    if earlier is not None:
        client.create_experiment("animatediff", tags=earlier)
    with open_tracker():
        pass
    assert client.get_experiment_by_name("animatediff").tags["mlflow.experimentKind"] == kind


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        ("https://user:pass@host/a.safetensors?X-Amz-Signature=abc&v=1", "https://host/a.safetensors?v=1"),
        (["s3://key:secret@bucket/a", "base"], "['s3://bucket/a', 'base']"),
        ({"path": "https://host/x?token=abc"}, "{'path': 'https://host/x'}"),
        ("x" * 10_000, "x" * 5000),  # MLflow would refuse the whole run for it
        (None, "None"),
    ],
)
def test_no_secret_and_nothing_too_long_is_logged(value, logged):
    with Tracker("run", run_id=None, params={"value": value}, tags={"uri": str(value)}) as tracker:
        pass
    data = run_of(tracker).data
    assert data.params == {"value": logged}
    assert data.tags["uri"] == logged


def test_a_server_that_takes_no_datasets_costs_a_warning_alone(monkeypatch, caplog):
    monkeypatch.setattr(MlflowClient, "log_inputs", lambda *_: 1 / 0)
    with Tracker("run", run_id=None, params={}, tags={}, inputs=[DataInput("a", "b", {})]) as tracker:
        tracker.log_metrics(1, {"loss": 1.0})
    assert run_of(tracker).data.metrics == {"loss": 1.0}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_server_s_password_is_used_and_told_to_nobody(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:S3cretValue@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert with_secrets(tracking_uri()) == "http://me:S3cretValue@127.0.0.1:9"
    with Tracker("run", run_id=None, params={}, tags={}) as tracker:
        tracker.log_metrics(1, {"loss": 1.0})
    assert "MLflow at http://127.0.0.1:9 cannot be used" in caplog.text
    assert "S3cretValue" not in caplog.text
