"""The preflight on a real local Ray: one table, a row for each fault, and nothing left behind."""

import socket

import pytest

from animatediff.errors import UserError
from pipelines import preflight
from pipelines.settings import AnimateConfig, IngestConfig, TrainJobConfig
from pipelines.stages.preflight import driver
from pipelines.stages.preflight.needs import Needs
from tests.support import write_yaml
from tests.unit.data.loading.test_loader import write_dataset

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(autouse=True)
def tracking(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


def ingest_config(sprites, base, output, **fields):
    return IngestConfig(**{"source": {"uri": sprites[0]}, "output_uri": str(output), "base": base} | fields)


def faults(config, capsys):
    """The table's rows that tell of a fault: check and text."""
    with pytest.raises(UserError, match="faults, in the table above"):
        preflight.main(config)
    rows = [line for line in capsys.readouterr().out.splitlines() if "  FAULT  " in line]
    return {line.split()[0]: line for line in rows}


def test_all_is_well(sprites, base, tmp_path, capsys):
    output = tmp_path / "new" / "dataset"
    preflight.main(ingest_config(sprites, base, output, scorers=["tests.integration.scorers:crash_on_red"]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["check", "node", "found"]
    checks = {line[0] for line in lines[1:]}
    assert checks == {
        *("folder", "MLflow", "code", "clock", "input", "output", "disk", "GPU", "base", "decoders", "scorers")
    }
    assert all("ok" in line for line in lines[1:])
    assert not (tmp_path / "new").exists()


def test_what_is_wrong_with_an_ingest(sprites, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    (tmp_path / "file").write_text("")
    config = ingest_config(
        sprites,
        str(tmp_path / "absent"),
        tmp_path / "file" / "dataset",
        decode={"decoders": ["pyav", "absent_package:Decoder"]},
        scorers=["absent_package:score"],
        use_gpu=True,
    )
    found = faults(config, capsys)
    # No GPU yet is none: groups that are scaled to zero have none before the job asks.
    assert found.keys() == {"MLflow", "output", "base", "decoders", "scorers"}
    assert str(tmp_path / "absent") in found["base"]
    assert "mend MLFLOW_TRACKING_URI" in found["MLflow"]
    assert "absent_package" in found["decoders"]
    assert "--working-dir" in found["scorers"]


def test_what_is_wrong_with_a_training(base, tmp_path, capsys):
    write_dataset(tmp_path / "dataset", shards=(9, 8), shapes=((4, 4, 16, 16),))
    next((tmp_path / "dataset").rglob("*.parquet")).write_bytes(b"")
    run = {"run_name": "run", "dataset_uri": str(tmp_path / "dataset"), "base": base}
    found = faults(TrainJobConfig(**run, output_uri=str(tmp_path / "dataset")), capsys)
    assert found.keys() == {"folder", "input"}
    assert "damaged" in found["input"]


def test_a_wrong_endpoint(base, tmp_path, run_job, sprites):
    """In a process of its own, as its credentials come from the environment: the exit code and the catalog's files."""
    content = {"base": base, "motion_module": "s3://bucket/motion.safetensors", "entries": [{"name": "bare"}]}
    catalog = write_yaml(tmp_path / "catalog.yaml", content)
    config = AnimateConfig(catalog_uri=catalog, output_uri="s3://bucket/out").model_dump(mode="json")
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed_port()}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }
    ended = run_job("preflight", "--config", write_yaml(tmp_path / "animate.yaml", config), env=environment)
    assert ended.returncode == 1, ended.stderr
    rows = [line for line in ended.stdout.splitlines() if "  FAULT  " in line]
    assert {line.split()[0] for line in rows} == {"folder", "input", "output"}
    assert all("cannot reach s3://bucket" in line for line in rows)
    assert "Traceback" not in ended.stderr


def test_a_node_that_gives_no_answer(tmp_path):
    (row,) = driver._on_nodes({"ab" * 28: "10.9.9.9"}, Needs(str(tmp_path)))
    assert (row.check, row.node) == ("answer", "10.9.9.9")
    assert row.remedy


def test_it_is_asked_for_a_config(run_job):
    ended = run_job("preflight")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].endswith("name the config of a job: --config FILE")
