"""A storage that does not answer: nobody takes it for one that has no such file, and each says what it is."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
import s3fs

from animatediff import storage
from animatediff.commands import main as command
from animatediff.data import shards
from animatediff.data.manifest import read_manifest
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching import attempts, http
from animatediff.data.sources.fetching.fetch import fetch as fetch_video
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.checks import files as file_checks
from animatediff.storage import filesystems
from animatediff.uris import hide_secrets, with_secrets
from animatediff.weights import base_facts, motion_modules
from animatediff.weights.reading.files import local_copy

SECRET = "S3cretValue"
ABSENCE = ("there is no", "there is nothing", "not found", "missing", "no weights", "not sealed")


class Status(BaseHTTPRequestHandler):
    """Answers with the status that the first folder names; `silent` never answers."""

    def do_GET(self):
        name = self.path.split("/")[1]
        if name == "silent":
            self.server.ended.wait()
            return
        self.send_response(int(name) if name.isdigit() else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Status)
    server.ended = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.ended.set()
    server.shutdown()


@pytest.fixture(scope="module")
def closed():
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]


@pytest.fixture
def where(port, closed, monkeypatch):
    """What begins the URIs of a storage with a fault; its clients do not wait for long."""
    timeout = aiohttp.ClientTimeout(sock_connect=0.3, sock_read=0.3)
    monkeypatch.setattr(filesystems, "_web_timeout", lambda: timeout)
    monkeypatch.setattr(http, "_TIMEOUT", timeout)
    monkeypatch.setattr(attempts, "_BACKOFF_S", 0.0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(filesystems, "_FEW_RETRIES", {"max_attempts": 1})

    def make(fault):
        if fault.startswith("s3"):
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed if fault == 's3 closed' else port}")
            s3fs.S3FileSystem.clear_instance_cache()
            return "s3://bucket"
        host = {"closed": f"127.0.0.1:{closed}", "no name": "nowhere.invalid"}.get(fault, f"127.0.0.1:{port}")
        user = f"me:{SECRET}@"
        return {
            "ftp closed": f"ftp://{user}127.0.0.1:{closed}",
            "zip closed": f"zip://inside::http://{user}127.0.0.1:{closed}",
            "a wrong port": f"http://me:{SECRET}/x@{host}",
        }.get(fault, f"http://{user}{host}/{fault.replace(' ', '')}")

    yield make
    s3fs.S3FileSystem.clear_instance_cache()


FAULTS = {
    "closed": "Connect call failed",
    "no name": "Name or service not known|No address associated|name resolution",
    "silent": "[Tt]imeout",
    "401": "401.*Unauthorized",
    "403": "403.*Forbidden",
    "429": "429",
    "500": "500.*Internal",
    "503": "503.*Unavailable",
    "a wrong port": "Invalid URL|port",
    "ftp closed": "Connection refused",
    "zip closed": "Connect call failed",
    "s3 closed": "Could not connect",
    "s3 403": "Forbidden",
}


def check_weights(uri):
    problems = file_checks.check_files([file_checks.FileInField(uri, role) for role in ("checkpoint", "vae", "loras")])
    assert len(problems) == 3
    raise UserError("; ".join(problems.values()))


def fetch(uri):
    with pytest.raises(VideoError) as caught:
        fetch_video(with_secrets(uri), max_bytes=1000)
    assert caught.value.reason in (Reason.FETCH_ERROR, Reason.FETCH_REFUSED)
    raise UserError(caught.value.detail)


ASKED = {
    "exists": storage.exists,
    "read": storage.read_bytes,
    "list": lambda uri: storage.list_names(storage.beside(uri, "")),
    "copy": local_copy,
    "base": base_facts.resolve,
    "motion module": motion_modules.open_file,
    "weights of a catalog": check_weights,
    "catalog": catalog_files.read,
    "dataset": read_manifest,
    "shard": lambda uri: shards.read_columns(uri, ["clip_id"]),
    "source": lambda uri: next(read_source(SourceConfig(uri=uri))),
    "video": fetch,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_says_what_it_is(fault, where):
    root = where(fault)
    for what, ask in ASKED.items():
        uri = hide_secrets(f"{root}/folder/file.csv?token={SECRET}")
        if what in ("video", "source") and "zip" in fault:  # these may name no chain
            continue
        with pytest.raises(UserError, match=FAULTS[fault]) as caught:
            ask(uri)
        told = str(caught.value)
        assert not any(word in told for word in ABSENCE), (what, told)
        assert SECRET not in told


@pytest.mark.parametrize("fault", ["404", "410"])
def test_what_a_server_does_not_have_is_not_there(fault, where):
    uri = f"{where(fault)}/file.csv"
    assert not storage.exists(uri)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)
    assert storage.list_names(uri) == set()
    with pytest.raises(UserError, match="there is nothing at"):
        local_copy(uri)


@pytest.mark.parametrize("fault", ["closed", "403"])
def test_the_command_says_it_too(fault, where, capsys):
    uri = f"{where(fault)}/file.mp4?token={SECRET}"
    for arguments in (
        ["identify", uri],
        ["verify", uri],
        ["show", uri],
        ["metadata", uri],
        ["convert", uri, "x", "--to", "official"],
    ):
        with pytest.raises(SystemExit):
            command(arguments)
        said = "".join(capsys.readouterr())
        assert "cannot reach" in said, arguments
        assert SECRET not in said
