import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
import s3fs

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from tests.unit.data.sources.test_collections_tars import sample, write_tar
from tests.unit.data.sources.test_reader import read, touch
from tests.unit.data.sources.test_tables_parquet import videos, write

VIDEO = bytes(range(256)) * 400


class Web(BaseHTTPRequestHandler):
    """Serves `files`; before that, a path's `faults` one a request: a status, `cut`, or `drip`."""

    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        server.asked.append(path)
        fault = server.faults[path].pop(0) if server.faults.get(path) else None
        if isinstance(fault, int):
            self.send_error(fault)
        elif path not in server.files:
            self.send_error(404)
        else:
            self._serve(server.files[path], fault)

    def do_HEAD(self):
        content = self.server.files.get(self.path.partition("?")[0])
        self.send_response(200 if content is not None else 404)
        self._send_length(len(content or b""))

    def _serve(self, content, fault):
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.send_response(206 if span and self.server.has_ranges else 200)
        if span and self.server.has_ranges:
            first, last = int(span[1]), int(span[2])
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        if fault == "endless":
            self.end_headers()
            self._send_endlessly()
        else:
            self._send_length(len(content))
            self.wfile.write(content[: len(content) // 2])
            if fault == "cut":
                return
            if fault == "drip":
                time.sleep(1)
            self.wfile.write(content[len(content) // 2 :])

    def _send_length(self, length):
        self.send_header("Content-Length", str(length))
        if self.server.has_ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def _send_endlessly(self):
        try:
            while True:
                self.wfile.write(bytes(1 << 16))
                self.server.num_sent += 1 << 16
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.files, server.faults, server.asked, server.has_ranges, server.num_sent = {}, {}, [], True, 0
    server.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("animatediff.data.sources.fetching.attempts._BACKOFF_S", 0.001)


def refusal(uri, max_bytes=10**6):
    with pytest.raises(VideoError) as error:
        fetch(uri, max_bytes=max_bytes)
    assert error.value.stage == "fetch"
    assert "\n" not in error.value.detail
    return error.value


@pytest.mark.parametrize("faults", [[], [500, 503], [429], ["cut", 502], ["cut", "cut"]])
def test_what_passes_is_tried_again(web, faults):
    web.files["/a.mp4"], web.faults["/a.mp4"] = VIDEO, list(faults)
    assert fetch(f"{web.uri}/a.mp4", max_bytes=len(VIDEO)) == VIDEO
    assert len(web.asked) == len(faults) + 1


@pytest.mark.parametrize(
    ("status", "reason", "asked"),
    [
        (404, Reason.NOT_FOUND, 1),
        (410, Reason.NOT_FOUND, 1),
        (401, Reason.FETCH_REFUSED, 1),
        (403, Reason.FETCH_REFUSED, 1),
        (451, Reason.FETCH_REFUSED, 1),
        (500, Reason.FETCH_ERROR, 3),
        (429, Reason.FETCH_ERROR, 3),
        ("cut", Reason.FETCH_ERROR, 3),
    ],
)
def test_what_stays_has_its_reason(web, status, reason, asked):
    web.files["/a.mp4"], web.faults["/a.mp4"] = VIDEO, [status] * 3
    error = refusal(f"{web.uri}/a.mp4?token=secret&v=1".replace("http://", "http://me:secret@"))
    assert (error.reason, len(web.asked)) == (reason, asked)
    assert f"{web.uri}/a.mp4?v=1" in error.detail
    assert "secret" not in error.detail
    assert error.reason is Reason.NOT_FOUND or isinstance(status, str) or str(status) in error.detail


def test_an_address_of_nobody_is_the_storages_fault():
    assert refusal("http://127.0.0.1:9/a.mp4").reason is Reason.FETCH_ERROR
    assert refusal("nosuch://a/b.mp4").reason is Reason.FETCH_ERROR


def test_a_slow_answer_is_waited_for_and_a_silent_one_is_not(web, monkeypatch):
    web.files["/a.mp4"], web.faults["/a.mp4"] = VIDEO, ["drip"]
    assert fetch(f"{web.uri}/a.mp4", max_bytes=len(VIDEO)) == VIDEO
    monkeypatch.setattr("animatediff.data.sources.fetching.http._TIMEOUT", aiohttp.ClientTimeout(sock_read=0.2))
    web.faults["/a.mp4"] = ["drip"] * 3
    error = refusal(f"{web.uri}/a.mp4")
    assert error.reason is Reason.FETCH_ERROR
    assert "imeout" in error.detail


def test_what_is_too_large_is_not_read(web):
    web.files["/a.mp4"] = VIDEO
    assert refusal(f"{web.uri}/a.mp4", len(VIDEO) - 1).reason is Reason.TOO_LARGE
    web.faults["/a.mp4"] = ["endless"]
    assert refusal(f"{web.uri}/a.mp4", 1_000_000).reason is Reason.TOO_LARGE
    assert web.num_sent < 50_000_000
    assert len(web.asked) == 2


def test_sources_on_a_web_server(web, tmp_path):
    write_tar(tmp_path / "s.tar", sample("000", 100_000) + sample("001"))
    write(tmp_path / "t.parquet", {"id": [1, 2], "video": videos(2), "text": ["a", "b"]})
    web.files = {f"/{name}": (tmp_path / name).read_bytes() for name in ("s.tar", "t.parquet")}
    web.files["/t.csv"] = f"video,caption\nclips/a b.mp4,one\n{web.uri}/q.mp4?v=1,two\n".encode()
    web.files |= {"/clips/a%20b.mp4": b"first", "/q.mp4": b"second"}
    found = read(f"{web.uri}/t.csv?sig=secret")
    assert [v.video_id for v in found] == ["clips/a b.mp4", f"{web.uri[7:]}/q.mp4?v=1"]
    assert [fetch(v.uri, max_bytes=99) for v in found] == [b"first", b"second"]
    tars = read(f"{web.uri}/s.tar?sig=secret")
    assert [(v.video_id, v.caption) for v in tars] == [("s/000", "clip 000"), ("s/001", "clip 001")]
    assert [fetch(v.uri, max_bytes=10**6) for v in tars] == [b"000" * 100_000, b"001" * 1000]
    cells = read(f"{web.uri}/t.parquet")
    assert [fetch(v.uri, max_bytes=10**6) for v in cells] == videos(2)

    web.has_ranges = False
    error = refusal(tars[0].uri)
    assert error.reason is Reason.FETCH_ERROR
    assert "serves no byte ranges" in error.detail
    assert "secret" not in error.detail
    with pytest.raises(UserError, match=r"s.tar serves no byte ranges"):
        read(f"{web.uri}/s.tar")
    assert len(read(f"{web.uri}/t.csv")) == 2


def test_local_files(tmp_path):
    touch(tmp_path / "a#offset=1&bytes=x.mp4", VIDEO)
    assert fetch(f"{tmp_path}/a#offset=1&bytes=x.mp4", max_bytes=len(VIDEO)) == VIDEO
    assert refusal(f"{tmp_path}/a#offset=1&bytes=x.mp4", len(VIDEO) - 1).reason is Reason.TOO_LARGE
    touch(tmp_path / "empty.mp4", b"")
    assert fetch(f"{tmp_path}/empty.mp4", max_bytes=0) == b""
    assert refusal(f"{tmp_path}/absent.mp4").reason is Reason.NOT_FOUND
    assert refusal(f"{tmp_path}/empty.mp4/a.mp4").reason is Reason.NOT_FOUND
    assert refusal(f"{tmp_path}/t.csv#line=3").reason is Reason.NOT_FOUND
    assert refusal(str(tmp_path)).reason is Reason.FETCH_ERROR
    os.mkfifo(tmp_path / "pipe.mp4")
    assert refusal(f"{tmp_path}/pipe.mp4").reason is Reason.FETCH_REFUSED


def test_sources_on_s3(s3, tmp_path):
    write_tar(tmp_path / "s-0.tar", sample("000", 100_000) + sample("001"))
    write_tar(tmp_path / "s-1.tar", sample("002"))
    write(tmp_path / "t.parquet", {"id": [1, 2], "video": videos(2), "text": ["a", "b"]})
    files = {f"tars/{n}": (tmp_path / n).read_bytes() for n in ("s-0.tar", "s-1.tar")}
    files["t.parquet"] = (tmp_path / "t.parquet").read_bytes()
    files |= {"f/a [1].mp4": VIDEO, "f/a [1].txt": b"one", "f/b.mp4": b"", "f/b.txt": b"", "f/c.json": b"{}"}
    for key, body in files.items():
        s3.put_object(Bucket="videos", Key=key, Body=body)
    folder = read("s3://videos/f")
    assert [(v.video_id, v.caption) for v in folder] == [("a [1].mp4", "one"), ("b.mp4", "")]
    assert [fetch(v.uri, max_bytes=10**6) for v in folder] == [VIDEO, b""]
    for uri in ("s3://videos/tars", "s3://videos/tars/*.tar", "s3://videos/tars/s-{0..1}.tar"):
        tars = read(uri)
        assert [v.video_id for v in tars] == ["s-0/000", "s-0/001", "s-1/002"]
    assert [len(fetch(v.uri, max_bytes=10**6)) for v in tars] == [300_000, 3000, 3000]
    cells = read("s3://videos/t.parquet")
    assert [fetch(v.uri, max_bytes=10**6) for v in cells] == videos(2)
    assert refusal("s3://videos/f/absent.mp4").reason is Reason.NOT_FOUND
    assert refusal("s3://videos/f/a [1].mp4", 10).reason is Reason.TOO_LARGE
    s3.put_object(Bucket="videos", Key="f/b.mp4", Body=b"more")
    assert fetch("s3://videos/f/b.mp4", max_bytes=10) == b"more"


def test_an_outage_of_s3_is_not_the_videos_fault(s3, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    error = refusal("s3://videos/a.mp4")
    assert error.reason is Reason.FETCH_ERROR
    assert "credentials" in error.detail


def test_nothing_of_a_source_is_read_before_it_is_asked_for(web):
    read_source(SourceConfig(uri=f"{web.uri}/t.csv"))
    assert web.asked == []
