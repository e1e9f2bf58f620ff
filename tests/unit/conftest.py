"""An S3 server over HTTP for the tests that want one."""

import boto3
import pytest
import s3fs
from hypothesis import HealthCheck, settings
from moto.server import ThreadedMotoServer

from animatediff.storage import filesystems

# An example that waits for a busy machine is not slow, nor is one that is drawn there: no test is timed.
settings.register_profile("new", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Properties have the same examples in every run, so that a change fails by its own fault; `make properties` draws new.
settings.register_profile("same", settings.get_profile("new"), derandomize=True)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def _waits_for_no_storage(monkeypatch):
    """A worker that a test makes in this process changes it, and the next test is no worker."""
    monkeypatch.setattr(filesystems._process, "waits_out_outages", False)


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    # fsspec keeps file systems with the addresses they were made with.
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="videos")  # it may be there, from the test before
    yield client
    s3fs.S3FileSystem.clear_instance_cache()
