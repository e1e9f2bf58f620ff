"""`ray job submit` against a real cluster: `ray start --head` on loopback, own ports and folder, ended by its pid."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from animatediff.data.manifest import read_manifest
from animatediff.weights import motion_modules
from tests.integration.conftest import REPOSITORY
from tests.support import write_yaml

pytestmark = pytest.mark.ray
RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(num):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """The job server's address of a fresh cluster."""
    gcs, dashboard, client, agent, agent_grpc = free_ports(5)
    # Unix sockets below it must stay under 108 characters.
    temp_dir = Path(f"/tmp/ad-{os.getpid()}")
    head = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--num-cpus", "2"),
            *("--port", str(gcs), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
            *("--ray-client-server-port", str(client), "--temp-dir", str(temp_dir)),
            # The default ports belong to the suite's own cluster.
            *("--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(agent_grpc)),
            *("--disable-usage-stats", "--include-dashboard", "true"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # As in an activated environment: the job's `python` is the one with the dependencies.
        env=os.environ | {"PATH": f"{Path(RAY).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 600
    # The job server answers before it has an agent that takes jobs.
    while subprocess.run([RAY, "job", "submit", "--address", address, "--", "true"], capture_output=True).returncode:
        assert head.poll() is None, "ray start ended by itself"
        assert time.monotonic() < deadline, "the job server did not come up"
        time.sleep(1)
    yield address
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
    shutil.rmtree(temp_dir, ignore_errors=True)


def submit(dashboard, *command):
    return subprocess.run(
        [RAY, "job", "submit", "--address", dashboard, "--working-dir", ".", "--", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_ingest_and_train_as_submitted_jobs(dashboard, sprites, base, tmp_path):
    dataset, run = tmp_path / "dataset", tmp_path / "run"
    ingest_config = write_yaml(
        tmp_path / "ingest.yaml",
        {
            "source": {"uri": sprites[0]},
            "output_uri": str(dataset),
            "base": base,
            "clips": {"height": 32, "width": 32},
            "num_encoders": 1,
        },
    )
    ingested = submit(dashboard, "python", "pipelines/ingest.py", "--config", ingest_config)
    assert ingested.returncode == 0, ingested.stdout + ingested.stderr
    assert read_manifest(str(dataset)).num_clips == 9

    train_config = write_yaml(
        tmp_path / "train.yaml",
        {
            "run_name": "submitted",
            "dataset_uri": str(dataset),
            "base": base,
            "output_uri": str(run),
            "train": {"num_steps": 2, "batch_size": 2, "log_every": 1},
            "sample": {"num_inference_steps": 2},
        },
    )
    trained = submit(dashboard, "python", "pipelines/train.py", "--config", train_config)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert motion_modules.read(str(run / "motion_module.safetensors")).config.max_frames == 32

    # A failing job must be seen by its submitter, in one line: what would be lost with Ray's temporary folder is
    # refused; nothing is written there.
    lost = submit(dashboard, "python", "pipelines/train.py", "--config", train_config, "--output-uri", "runs/x")
    assert lost.returncode != 0
    assert "output_uri: 'runs/x' depends on the working directory" in lost.stdout + lost.stderr
    assert "Traceback" not in lost.stdout
    assert "MLflow: " in trained.stdout + trained.stderr
