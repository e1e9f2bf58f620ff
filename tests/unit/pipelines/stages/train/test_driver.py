"""A finished run is registered, late where MLflow was away at its end."""

import logging

import pytest
from mlflow import MlflowClient

from pipelines.settings import TrainJobConfig
from pipelines.stages.train.driver import train
from pipelines.stages.train.run import start_or_resume
from tests.support_base import build_base
from tests.unit.data.loading.test_loader import write_dataset

NOT_REGISTERED = "the weights are not registered: once MLflow takes them, the same command does it"


@pytest.fixture
def finished(tmp_path):
    """The config of a run that has done its steps, and was never registered."""
    write_dataset(tmp_path / "dataset", shards=(4,), shapes=((4, 4, 16, 16),))
    config = TrainJobConfig(
        run_name="walks/slow",
        dataset_uri=str(tmp_path / "dataset"),
        base=str(build_base(tmp_path / "base")),
        output_uri=str(tmp_path / "run"),
        train={"num_steps": 3, "batch_size": 1},
    )
    start_or_resume(config).run.model_copy(update={"num_steps": 3, "loss": 0.5}).write(config.output_uri)
    (tmp_path / "run" / "motion_module.safetensors").write_bytes(b"weights")
    return config


def test_the_same_command_registers_what_ended_while_mlflow_was_away(finished, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert train(finished).registered is None
    assert caplog.messages[-1] == NOT_REGISTERED

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # where artifacts go to
    with caplog.at_level(logging.INFO):
        run = train(finished)
    assert (run.registered, run.loss) == ("models:/walks-slow/1", 0.5)
    assert caplog.messages[-1] == "registered: models:/walks-slow/1"
    client = MlflowClient(uri)
    (version,) = client.search_model_versions("name = 'walks-slow'")
    assert version.run_id == run.mlflow_run_id
    assert version.tags["output_uri"] == finished.output_uri
    assert client.get_run(run.mlflow_run_id).info.status == "FINISHED"

    # From then on it is left alone, also by an MLflow that is away, until another name is wanted.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    caplog.clear()
    assert train(finished) == run
    assert all("another VAE" in message for message in caplog.messages)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert train(finished.model_copy(update={"registered_model": "best"})).registered == "models:/best/1"
