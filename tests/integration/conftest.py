"""One local Ray cluster for the whole session; the jobs' `main` functions join it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
import ray
import s3fs
from moto.server import ThreadedMotoServer

from animatediff.sprites.videos import break_videos, write_videos
from pipelines.cluster.runtime import connect
from pipelines.terminal.logs import configure_logging
from tests.integration import in_process
from tests.support_base import build_base

REPOSITORY = Path(__file__).parents[2]
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}

# For all processes that are started from here on, Ray's included.
_AS_INSTALLED = str(Path(__file__).with_name("as_installed"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_AS_INSTALLED, os.environ.get("PYTHONPATH")]))
# Ray looks for new logs twice a second, which costs more the more processes there have been. Nobody waits for them.
os.environ["LOG_NAME_UPDATE_INTERVAL_S"] = "10"
# Nor for what its agents measure of every process, each five seconds.
os.environ["REPORTER_UPDATE_INTERVAL_MS"] = "60000"


@pytest.fixture(scope="session")
def cluster():
    configure_logging()
    connect()
    yield
    ray.shutdown()


@pytest.fixture
def workers_here(cluster, monkeypatch):
    """Jobs that the test's own process starts have their workers in it, which saves seconds a worker."""
    in_process.use(monkeypatch)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The sprite world's base model."""
    return str(build_base(tmp_path_factory.mktemp("world") / "base"))


@pytest.fixture(scope="session")
def sprites(tmp_path_factory):
    """Twelve sprite videos, three of them broken: the CSV's path, and what is broken."""
    folder = tmp_path_factory.mktemp("sprites")
    csv = write_videos(folder, num_videos=12, height=64, width=64)
    return str(csv), break_videos(folder)


@pytest.fixture
def server(monkeypatch):
    """Host and port of an object store with the bucket `videos`, and its client."""
    store = ThreadedMotoServer(port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    for name, value in (_CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}).items():
        monkeypatch.setenv(name, value)
    # fsspec keeps file systems with the addresses they were made with.
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="videos")
    yield host, port, client
    # Its objects live in this process, not in the server.
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST"))
    store.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def run_job():
    """Run a job as its user does: a command with a config file; the process and its output."""

    def run(job, *arguments, timeout=900, env=None):
        return subprocess.run(
            [sys.executable, f"pipelines/{job}.py", *arguments],
            cwd=REPOSITORY,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


def hashes(folder, *, ignore=("config.yaml", "ingest.json")):
    """sha256 of every file below a folder."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.name not in ignore)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
