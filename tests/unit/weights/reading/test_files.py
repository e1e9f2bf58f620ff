"""Remote weights: fetched once a version, never half, and never a stale one."""

import http.server
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from animatediff.errors import UserError
from animatediff.weights.reading import files
from animatediff.weights.reading.files import local_copy, parse_json


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path):
    """A web server over a folder."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_web_server_s_file_is_fetched_once_and_again_when_it_is_replaced(server):
    folder, address = server
    (folder / "a.safetensors").write_bytes(b"one")
    first = local_copy(f"{address}/a.safetensors")
    assert first.read_bytes() == b"one"
    inode = first.stat().st_ino
    again = local_copy(f"{address}/a.safetensors")
    assert (again, again.stat().st_ino) == (first, inode)
    (folder / "a.safetensors").write_bytes(b"three")
    assert local_copy(f"{address}/a.safetensors").read_bytes() == b"three"


def test_old_copies_make_room_for_new_ones(cache, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/many/{name}.bin": name.encode() * 100 for name in "abcd"})

    def free(num_bytes):
        monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(total=1000, free=num_bytes))

    free(1000)
    a, b, c = (local_copy(f"memory://many/{name}.bin") for name in "abc")
    for age_s, path in ((9000, a), (8000, b), (60, c)):
        os.utime(path.parent, (time.time() - age_s,) * 2)
    local_copy("memory://many/a.bin")  # used again, so that b is the one that nobody misses
    free(150)  # 100 for d, and a tenth of 1000 is to stay
    with b.open("rb") as opened:
        d = local_copy("memory://many/d.bin")
        assert [path.exists() for path in (a, b, c, d)] == [True, False, True, True]
        assert opened.read() == b"b" * 100
    assert local_copy("memory://many/b.bin").read_bytes() == b"b" * 100


@pytest.fixture
def full_disk(monkeypatch):
    """A disk on which there is never room for another copy."""
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(total=1000, free=0))


def long_ago(*paths):
    for path in paths:
        os.utime(path, (time.time() - 9000,) * 2)


@pytest.mark.usefixtures("full_disk")
def test_another_process_s_running_download_is_left_alone(cache, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/slow/a.bin": b"a" * 100, "/slow/b.bin": b"b" * 100})
    get = type(memory).get_file

    def slow_get(self, path, local, **options):
        """An hour and more, in which another file is asked for, and its process makes room."""
        get(self, path, local, **options)
        if path.endswith("a.bin"):
            long_ago(Path(local).parent)  # its folder was made then; the file in it still grows
            local_copy("memory://slow/b.bin")

    monkeypatch.setattr(type(memory), "get_file", slow_get)
    a = local_copy("memory://slow/a.bin")
    assert a.read_bytes() == b"a" * 100
    assert local_copy("memory://slow/b.bin").read_bytes() == b"b" * 100
    assert a.exists()  # what took long is not old when it is there


@pytest.mark.usefixtures("full_disk")
def test_what_a_killed_download_left_makes_room_after_an_hour(cache):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/left/a.bin": b"a"})
    drafts = [cache / f".{number}.tmp" for number in range(2)]
    for draft in drafts:
        draft.mkdir(parents=True)
        (draft / "m.bin").write_bytes(b"x" * 100)
    long_ago(drafts[0] / "m.bin", *drafts)
    local_copy("memory://left/a.bin")
    assert [draft.exists() for draft in drafts] == [False, True]


@pytest.mark.usefixtures("full_disk")
def test_a_copy_that_another_process_asks_for_meanwhile_stays(cache, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/meanwhile/{name}.bin": name.encode() * 100 for name in "abc"})
    a, b = (local_copy(f"memory://meanwhile/{name}.bin") for name in "ab")
    long_ago(a.parent, b.parent)
    delete, deleted = files._delete, []

    def slow_delete(copy):
        """While the first is deleted the other is asked for."""
        if not deleted:
            local_copy(f"memory://meanwhile/{(b if copy == a.parent else a).name}")
        deleted.append(copy)
        return delete(copy)

    monkeypatch.setattr(files, "_delete", slow_delete)
    local_copy("memory://meanwhile/c.bin")
    assert len(deleted) == 2
    assert a.exists() != b.exists()


def fetch_one(folder):
    """What a process does that finds a full disk."""
    files.CACHE = Path(folder)
    files.shutil.disk_usage = lambda _: SimpleNamespace(total=10**9, free=0)
    fsspec.filesystem("memory").pipe({"/both/a.bin": b"a"})
    assert local_copy("memory://both/a.bin").read_bytes() == b"a"


def test_two_processes_make_room_at_once(cache):
    for number in range(300):
        parts = cache / f"{number:03}" / "model" / "unet"
        parts.mkdir(parents=True)
        (parts / "m.bin").write_bytes(b"x")
        long_ago(cache / f"{number:03}")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch_one, args=(str(cache),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(cache.iterdir())) == 2  # each has its own file in memory


def test_a_folder_and_a_replaced_file_in_it():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/weights/unet/a.safetensors": b"1", "/weights/unet/config.json": b"{}"})
    first = local_copy("memory://weights")
    assert (first / "unet" / "a.safetensors").read_bytes() == b"1"
    assert local_copy("memory://weights") == first
    memory.pipe({"/weights/unet/a.safetensors": b"2"})
    assert (local_copy("memory://weights") / "unet" / "a.safetensors").read_bytes() == b"2"


def test_a_broken_download_is_one_line_and_leaves_nothing(cache, monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/b/m.safetensors": b"x" * 100})

    def breaks(_self, _path, local, **_):
        with open(local, "wb") as file:  # noqa: PTH123
            file.write(b"x" * 50)
        raise ConnectionError("the connection was cut\nin the middle")

    monkeypatch.setattr(type(memory), "get_file", breaks)
    with pytest.raises(UserError, match="cannot reach memory://b/m.safetensors: the connection was cut") as caught:
        local_copy("memory://b/m.safetensors")
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b"\xff", b"[" * 200_000, b'{"a":' * 200_000, b"1"])
def test_strange_json_is_one_line(text):
    with pytest.raises(UserError, match=r"^x\.json (is not valid JSON|holds a)") as caught:
        parse_json(text, "x.json")
    assert "\n" not in str(caught.value)


# As in a container whose user has a number alone, which no test can become.
NOBODY = """
import pwd
def unknown(*_): raise KeyError
pwd.getpwuid = pwd.getpwnam = unknown
"""
CACHES = """
from animatediff.weights.reading.files import CACHE
from huggingface_hub.constants import HF_HOME
print(CACHE, HF_HOME)
"""


def caches(tmp_path, start="", **environment):
    """Ours and the hub's in a new process, and what it says."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", start + CACHES],
        env=kept | {"TMPDIR": str(tmp_path / "tmp")} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(path) for path in done.stdout.split()], done.stderr


@pytest.mark.parametrize(
    ("start", "environment", "below"),
    [
        (NOBODY, {}, ".cache"),
        (NOBODY, {"XDG_CACHE_HOME": ""}, ".cache"),
        ("", {"HOME": "/dev/null/nowhere"}, ""),
    ],
)
def test_without_a_home_copies_are_kept_in_a_temporary_folder(tmp_path, start, environment, below):
    folder = tmp_path / "tmp" / f"animatediff-{os.getuid()}"
    found, said = caches(tmp_path, start, **environment)
    assert found == [folder / below / "animatediff", folder / below / "huggingface"]
    (line,) = said.splitlines()
    assert str(folder) in line
    assert "XDG_CACHE_HOME" in line
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME"])
def test_a_folder_that_is_named_is_taken_in_silence(tmp_path, name):
    found, said = caches(tmp_path, NOBODY, **{name: str(tmp_path)})
    folder = tmp_path / ".cache" if name == "HOME" else tmp_path
    assert found == [folder / "animatediff", folder / "huggingface"]
    assert said == ""
