import logging
import time

import pytest
from mlflow import MlflowClient

from pipelines.tracking import Tracker, flatten, tracking_uri


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


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
    assert list((tmp_path / "runs" / "mlartifacts").rglob("config.yaml"))
    assert capfd.readouterr() == ("", "")


def test_an_unreachable_server_costs_one_warning_and_little_time(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), open_tracker() as tracker:
        tracker.log_metrics(1, {"loss": 1.0})
        tracker.log_file("config.yaml", b"a: 1")
    assert tracker.run_id is None
    assert time.monotonic() - start < 20
    assert [record.name for record in caplog.records] == ["pipelines.tracking"]
    assert "\n" not in caplog.records[0].getMessage()


def test_metrics_of_an_outage_are_sent_when_it_is_over(monkeypatch, caplog):
    with open_tracker() as tracker:
        real = tracker._client.log_batch
        monkeypatch.setattr(tracker._client, "log_batch", lambda *_, **__: 1 / 0)
        for step in (1, 2, 3):
            tracker.log_metrics(step, {"loss": 1.0})
        monkeypatch.setattr(tracker._client, "log_batch", real)
    history = MlflowClient(tracking_uri()).get_metric_history(tracker.run_id, "loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert len(caplog.records) == 1


def test_flatten():
    assert flatten({"a": 1, "b": {"c": {"d": 2}, "e": None}}) == {"a": 1, "b.c.d": 2, "b.e": None}
