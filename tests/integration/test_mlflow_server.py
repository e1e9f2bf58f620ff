"""A real `mlflow server` over HTTP: what is registered there is rendered with, though workers cannot ask the server."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.catalog.catalog import expand
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.results.ledger import read_results
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines.animate import main
from pipelines.settings import AnimateConfig
from pipelines.tracking.model_uris import fetch_weights
from pipelines.tracking.tracker import Tracker, open_client
from tests.support import write_yaml

_START_S = 300  # imports, tables, and a worker of its own; 20 s on two busy cores


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url, process):
    for _ in range(_START_S * 4):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        assert process.poll() is None, "the server ended"
        time.sleep(0.25)
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server that hands out artifacts itself: its clients see no bucket and no folder."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "store")),
        ],
        cwd=folder,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


@pytest.fixture
def motion_module(base, tmp_path):
    path = tmp_path / "motion_module.safetensors"
    motion_modules.write(str(path), MotionModules.for_base(load_unet(base), MotionConfig()))
    return str(path)


def write_catalog(base, uris, folder):
    """Write a catalog of one prompt for each of the motion modules; its path."""
    content = {
        **{"base": base, "width": 32, "height": 32, "num_frames": 2, "num_inference_steps": 1, "prompts": ["a star"]},
        "entries": [{"name": f"of-{i}", "motion_module": uri} for i, uri in enumerate(uris)],
    }
    folder.mkdir()
    return write_yaml(folder / "catalog.yaml", content)


def test_what_a_server_has_not_is_one_line_each(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    file = tmp_path / "motion_module.safetensors"
    file.write_bytes(b"weights")
    with Tracker("test", run_id=None, params={}, tags={}) as tracker:
        tracker.register("errors", str(file), tags={})
        tracker.log_file("config.yaml", b"a: 1")
    told = {
        "models:/unknown/1": f"MLflow at {server} has no registered model 'unknown'",
        "models:/errors/7": "has no version 7 of registered model 'errors' (the latest is 1)",
        "models:/errors@best": "registered model 'errors' has no alias 'best': it has none",
        "models:/errors/1/other.safetensors": "there is motion_module.safetensors",
        f"runs:/{'0' * 32}": f"has no run {'0' * 32}",
        f"runs:/{tracker.run_id}/config.yaml/x": "has no weights file (",
    }
    for uri, line in told.items():
        with pytest.raises(UserError) as caught:
            fetch_weights(uri, str(tmp_path / "out"))
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_a_registered_motion_module_renders_and_is_known_as_its_file(
    server, base, motion_module, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    with Tracker("test", run_id=None, params={}, tags={}) as tracker:
        assert tracker.register("moves", motion_module, tags={"recipe": "motion_module"}) == "1"
    with Tracker("test", run_id=tracker.run_id, params={}, tags={}) as again:
        assert again.register("moves", motion_module, tags={"recipe": "motion_module"}) == "1"
        again.log_file("validation/step-00000001/0.mp4", b"frames")
    client = open_client()
    client.set_registered_model_alias("moves", "best", "1")
    assert len(client.search_model_versions("name = 'moves'")) == 1
    assert client.list_artifacts(tracker.run_id, "validation/step-00000001")[0].file_size == 6
    (of_file,) = expand(catalog_files.read(write_catalog(base, [motion_module], tmp_path / "file"))).items
    catalog = write_catalog(base, ["models:/moves@best", f"runs:/{tracker.run_id}"], tmp_path / "server")
    output = str(tmp_path / "out")
    main(AnimateConfig(catalog_uri=catalog, output_uri=output, num_actors=1, formats=("mp4",)))
    of_alias, of_run = read_results(output)
    assert of_alias.status == of_run.status == "ok"
    assert of_file.digest == of_alias.digest == of_run.digest  # of all that decides the pixels
