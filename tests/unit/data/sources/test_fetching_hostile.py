"""Where rows and servers point: pipes, devices, chains, redirects; nothing hangs or goes past a limit."""

import io
import ipaddress
import os
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff.data.quarantine import Reason
from animatediff.data.sources.fetching import http
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from animatediff.rendering.catalog.reading.catalog_files import read as read_catalog
from tests.unit.data.sources.test_fetching import refusal
from tests.unit.data.sources.test_reader import read, touch

VIDEO = b"video" * 100


class Web(BaseHTTPRequestHandler):
    """Serves `files`; a text is where it redirects to."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.headers_seen = dict(self.headers)
        content = self.server.files.get(self.path.partition("?")[0])
        if isinstance(content, str):
            self.send_response(self.server.status)
            self.send_header("Location", content)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif content is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def servers():
    """Two, on addresses of one machine."""
    started = [ThreadingHTTPServer(("127.0.0.1", 0), Web) for _ in range(2)]
    threads = []
    for server in started:
        server.files, server.asked, server.status = {"/a.mp4": VIDEO}, [], 302
        server.uri = f"http://127.0.0.1:{server.server_port}"
        threads.append(threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}))
        threads[-1].start()
    yield started
    for server, thread in zip(started, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("animatediff.data.sources.fetching.attempts._BACKOFF_S", 0.001)


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    server = socket.socket(socket.AF_UNIX)
    os.chdir(path.parent)  # its name may not be long
    server.bind(path.name)
    server.close()


def device(path):
    path.symlink_to("/dev/zero")


def terminal(path):
    path.symlink_to("/dev/tty")


def linked_pipe(path):
    os.mkfifo(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


KINDS = [pipe, unix_socket, device, terminal, linked_pipe]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("part", ["", "#offset=0&bytes=100", "#group=0&row=0&column=video"])
@pytest.mark.parametrize("form", ["{}", "file://{}", "local://{}"])
def test_workers_fetch_from_regular_files_alone(tmp_path, monkeypatch, make, part, form):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.mp4")
    assert refusal(form.format(tmp_path / "a.mp4") + part).reason is Reason.FETCH_REFUSED


@pytest.mark.parametrize("make", KINDS)
def test_drivers_read_regular_files_alone(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    touch(tmp_path / "folder" / "a.mp4")
    touch(tmp_path / "folder" / "b.mp4")
    touch(tmp_path / "folder" / "b.txt", b"a hill")
    make(tmp_path / "folder" / "a.txt")
    first, second = read(tmp_path / "folder")
    assert (first.fault.reason, second.caption) == (Reason.BAD_CAPTION, "a hill")
    assert "a.txt cannot be read: it is no regular file" in first.fault.detail
    for name in ("t.csv", "t.csv.gz", "t.jsonl", "t.parquet", "t.tar"):
        make(tmp_path / name)
        (tmp_path / "elsewhere").unlink(missing_ok=True)
        if make is linked_pipe:
            os.mkfifo(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=rf"{name}: it is no regular file"):
            read(tmp_path / name)
        (tmp_path / "elsewhere").unlink(missing_ok=True)
    make(tmp_path / "catalog.jsonl")
    with pytest.raises(UserError, match="catalog.jsonl: it is no regular file"):
        read_catalog(str(tmp_path / "catalog.jsonl"))


def test_files_change_nothing(tmp_path):
    """Large offsets, ends of files, links and names with the marks of chains are as they were."""
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.size = len(VIDEO)
        tar.addfile(info, io.BytesIO(VIDEO))
    assert fetch(f"{tmp_path}/t.tar#offset=512&bytes={len(VIDEO)}", max_bytes=1000) == VIDEO
    assert "0 of 9 bytes came" in refusal(f"{tmp_path}/t.tar#offset=99999999999&bytes=9").detail
    for number in ("9" * 5000, "9" * 19):
        for part in (f"#offset={number}&bytes=9", f"#offset=0&bytes={number}", f"#group=0&row={number}&column=video"):
            assert refusal(f"{tmp_path}/t.tar{part}").reason is Reason.NOT_FOUND
    assert refusal(f"{tmp_path}/t.tar#offset=0&bytes={'9' * 18}").reason is Reason.TOO_LARGE
    touch(tmp_path / "a::b.mp4", VIDEO)
    (tmp_path / "link.mp4").symlink_to("a::b.mp4")
    for name in ("a::b.mp4", "link.mp4"):
        assert fetch(f"{tmp_path}/{name}", max_bytes=1000) == VIDEO
    for name in ("x" * 300, "loop.mp4", "a\0b.mp4"):
        if name == "loop.mp4":
            (tmp_path / name).symlink_to(name)
        assert refusal(f"{tmp_path}/{name}").reason is Reason.NOT_FOUND


CHAINS = [
    "simplecache::{web}/a.mp4",
    "filecache::{web}/a.mp4",
    "blockcache::{web}/a.mp4",
    "simplecache::file://{folder}/a.mp4",
    "zip://a.mp4::{web}/a.zip",
    "tar://a.mp4::file://{folder}/t.tar",
    "dask::{web}/a.mp4",
]
PROTOCOLS = [
    "ftp://h/a.mp4",
    "sftp://h/a.mp4",
    "github://o:r@main/a.mp4",
    "memory://a.mp4",
    "git://a.mp4",
    "zip://a.mp4",
    "reference://a.mp4",
    "smb://h/a.mp4",
    "nosuch://h/a.mp4",
]


@pytest.mark.parametrize("uri", CHAINS)
def test_chains_are_not_fetched(tmp_path, servers, uri):
    touch(tmp_path / "a.mp4", VIDEO)
    full = uri.format(web=servers[0].uri, folder=tmp_path)
    for part in ("", "#offset=0&bytes=100", "#group=0&row=0&column=video"):
        assert refusal(full + part, 1).reason is Reason.FETCH_REFUSED
    assert servers[0].asked == []
    with pytest.raises(UserError, match=r"chains file systems .*\(source.uri\)"):
        read(full)


def tables(folder, rows):
    (folder / "t.csv").write_text("video,caption\n" + "".join(f'"{row}",dog\n' for row in rows))
    pq.write_table(pa.table({"video": rows, "caption": ["dog"] * len(rows)}), folder / "t.parquet")
    return folder / "t.csv", folder / "t.parquet"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_name_files_and_stores_and_nothing_else(tmp_path, servers, suffix):
    touch(tmp_path / "a.mp4", VIDEO)
    bad = [uri.format(web=servers[0].uri, folder=tmp_path) for uri in CHAINS] + PROTOCOLS
    good = ["a.mp4", f"{tmp_path}/b.mp4", f"file://{tmp_path}/c.mp4", "https://h/d.mp4", "s3://b/e.mp4", "gs://b/f.mp4"]
    tables(tmp_path, [*bad, *good])
    videos = read(tmp_path / f"t.{suffix}")
    assert [video.fault and video.fault.reason for video in videos[len(bad) :]] == [None] * len(good)
    for video in videos[: len(bad)]:
        assert video.fault.reason in (Reason.FETCH_REFUSED, Reason.BAD_ROW)
        assert video.fault.detail.startswith(("line ", "row "))
    assert servers[0].asked == []


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_remote_table_names_no_local_file(tmp_path, servers, suffix, trusted):
    touch(tmp_path / "secret", VIDEO)
    rows = [f"{tmp_path}/secret", f"file://{tmp_path}/secret", f"local://{tmp_path}/secret", "/dev/zero", "FILE:///x"]
    rows += ["a.mp4", f"{servers[1].uri}/a.mp4"]
    lines = "".join(f'{{"video": "{row}", "caption": "dog"}}\n' for row in rows)
    content = lines if suffix == "jsonl" else "video,caption\n" + "".join(f"{row},dog\n" for row in rows)
    servers[0].files[f"/t.{suffix}"] = content.encode()
    videos = read(f"{servers[0].uri}/t.{suffix}", trusted=trusted)
    refused = [video.fault is not None for video in videos]
    assert refused == ([False] * 7 if trusted else [True] * 5 + [False] * 2)
    assert trusted or all(
        v.fault.reason is Reason.FETCH_REFUSED and "source.trusted" in v.fault.detail for v in videos[:5]
    )
    assert [fetch(video.uri, max_bytes=1000) for video in videos[5:]] == [VIDEO, VIDEO]


def test_a_remote_table_does_not_climb_out_of_a_local_folder(tmp_path, servers):
    rows = ["a.mp4", "../secret", "x/../../secret", "..", "x/.."]
    servers[0].files["/t.csv"] = ("video,caption\n" + "".join(f"{row},dog\n" for row in rows)).encode()
    for trusted in (False, True):
        videos = read(f"{servers[0].uri}/t.csv", videos_uri=str(tmp_path), trusted=trusted)
        assert [video.fault is None for video in videos] == [True, *[trusted] * 4]


INSIDE = [
    "{other}/a.mp4",
    "http://localhost:{port}/a.mp4",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://[fe80::1]/a.mp4",
    "http://10.0.0.1/a.mp4",
    "http://2852039166/a.mp4",
    "http://0/a.mp4",
    "file:///etc/hostname",
    "ftp://127.0.0.1/a.mp4",
    "gopher://127.0.0.1/a",
    "http://[",
]


@pytest.mark.parametrize("target", INSIDE)
@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("part", ["", "#offset=0&bytes=100"])
def test_a_redirect_leads_nowhere_inside_the_network(servers, target, status, part):
    first, other = servers
    first.status, first.files["/r.mp4"] = status, target.format(other=other.uri, port=other.server_port)
    assert refusal(f"{first.uri}/r.mp4{part}").reason is Reason.FETCH_REFUSED
    assert other.asked == []


def test_a_redirect_at_home_and_to_the_public_is_followed(servers, monkeypatch):
    first, other = servers
    first.files |= {"/r.mp4": "/s.mp4?token=secret", "/s.mp4": f"{first.uri}/a.mp4"}
    assert fetch(f"{first.uri}/r.mp4", max_bytes=1000) == VIDEO
    first.files["/loop.mp4"] = "/loop.mp4"
    assert "redirected more than" in refusal(f"{first.uri}/loop.mp4").detail
    first.files["/away.mp4"] = f"{other.uri}/a.mp4"
    assert fetch(f"{first.uri}/away.mp4", max_bytes=1000, trusted=True) == VIDEO
    monkeypatch.setattr(http, "_STRANGERS", http._Guard(lambda address: True, http._STRANGERS.get_client))
    monkeypatch.setattr(http._Resolver, "_is_allowed", lambda self, address: True, raising=False)
    with_user = first.uri.replace("http://", "http://me:password@")
    assert fetch(f"{with_user}/away.mp4", max_bytes=1000) == VIDEO
    assert "Authorization" in first.headers_seen
    assert "Authorization" not in other.headers_seen
    assert refusal(f"{first.uri}/away.mp4", 10).reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/iam",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://0xA9FEA9FE/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "HTTP://169.254.169.254/",
    ],
)
def test_the_clouds_metadata_are_no_video(uri):
    error = refusal(uri)
    assert error.reason is Reason.FETCH_REFUSED
    assert "source.trusted allows it" in error.detail or "no web address" in error.detail


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        *(("8.8.8.8", True), ("2606:4700::1", True), ("10.1.2.3", False), ("192.168.1.1", False), ("127.0.0.1", False)),
        *(("::1", False), ("169.254.1.1", False), ("168.63.129.16", False), ("224.0.0.1", False), ("0.0.0.0", False)),
    ],
)
def test_addresses_of_the_public(address, is_public):
    assert http._is_public(ipaddress.ip_address(address)) == is_public


def test_sidecars_of_stores_have_bounds_too(s3, servers):
    for name, body in {"a.mp4": b"x", "a.txt": b"x" * 1_000_001, "b.mp4": b"x", "b.txt": b"a hill"}.items():
        s3.put_object(Bucket="videos", Key=f"bounds/{name}", Body=body)
    first, second = read("s3://videos/bounds")
    assert (first.fault.reason, second.caption) == (Reason.BAD_CAPTION, "a hill")
    assert "a.txt has more than 1000000 bytes" in first.fault.detail


def test_a_table_in_a_store_names_no_local_file(s3, tmp_path):
    touch(tmp_path / "a.mp4", VIDEO)
    s3.put_object(
        Bucket="videos", Key="t.csv", Body=f"video,caption\n{tmp_path}/a.mp4,dog\ns3://videos/a,cat\n".encode()
    )
    first, second = (video for batch in read_source(SourceConfig(uri="s3://videos/t.csv")) for video in batch)
    assert (first.fault.reason, second.fault) == (Reason.FETCH_REFUSED, None)
