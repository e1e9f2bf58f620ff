"""A store that does not answer for a while: an error to a driver, and only time to a worker."""

import threading
import time

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from animatediff import storage
from animatediff.errors import UserError
from tests.integration.test_mlflow_server import free_port


@pytest.fixture
def late_store(monkeypatch):
    """A store that is not there yet; call it to start it after some seconds."""
    port = free_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    server = ThreadedMotoServer(port=port, verbose=False)
    timers = []

    def start(after_s):
        timers.append(threading.Timer(after_s, server.start))
        timers[0].start()

    yield start
    for timer in timers:
        timer.join()
        server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_worker_waits_for_a_store_and_a_driver_says_that_it_is_away(late_store):
    with pytest.raises(UserError, match="cannot reach s3://videos/a"):
        storage.exists("s3://videos/a")
    storage.use_patient_retries()
    late_store(after_s=8)  # later than the driver has waited
    began = time.monotonic()
    assert not storage.exists("s3://videos/a")
    assert time.monotonic() - began > 7
