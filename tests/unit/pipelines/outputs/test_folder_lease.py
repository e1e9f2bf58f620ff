"""One job at a time writes to an output folder, and the place of one that is gone is taken over."""

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import boto3
import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from animatediff import storage
from animatediff.errors import UserError
from animatediff.storage import exclusive
from pipelines import animate, ingest, score, train
from pipelines.outputs import folder_lease
from pipelines.outputs.folder_lease import Lease, leased
from pipelines.outputs.lease_holder import Holder
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainJobConfig

REPOSITORY = Path(__file__).parents[4]
HOLD = """
    import pathlib, sys, time
    from pipelines.outputs.folder_lease import leased

    print("ready", flush=True)
    go = pathlib.Path(sys.argv[2])
    while not go.exists():
        time.sleep(0.001)
    try:
        with leased(sys.argv[1], "ingest", is_dry=False):
            print("held", flush=True)
            sys.stdin.read()
    except Exception as error:
        print(error, flush=True)
"""


@pytest.fixture
def one_by_one(monkeypatch):
    """An S3 server that takes requests in turn: moto's looks at a condition and writes in two steps."""
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    boto3.client("s3").create_bucket(Bucket="leases")
    s3fs.S3FileSystem.clear_instance_cache()  # those know other tests' servers
    yield "s3://leases/out"
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()


def start(output_uri, go, code=HOLD):
    command = [sys.executable, "-c", textwrap.dedent(code), output_uri, str(go)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, **pipes)


def names(folder):
    return sorted(name for name in storage.list_names(str(folder)) if "lease" in name)


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    yield str(tmp_path / "a" / "out") if request.param == "local" else "memory://lease/out"
    fs = fsspec.filesystem("memory")
    if fs.exists("/lease"):
        fs.rm("/lease", recursive=True)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(folder_lease, "_LOOK_S", 0.02)


@pytest.fixture
def never_waits(monkeypatch):
    monkeypatch.setattr(folder_lease.Lease, "_last_sign", lambda *_: pytest.fail("it waits for the owner"))


def elsewhere(job="train", **fields):
    """Somebody whose process cannot be seen from here."""
    holder = Holder.of_this_process(job)
    return holder.model_copy(update={"host": "node-7", "pid": 4711, "machine": "another", **fields})


@pytest.mark.parametrize("where", ["local", "s3"])
def test_of_many_that_start_at_once_one_wins(where, tmp_path, request):
    uri = str(tmp_path / "out") if where == "local" else request.getfixturevalue("one_by_one")
    processes = [start(uri, tmp_path / "go") for _ in range(5)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 5
    (tmp_path / "go").touch()
    said = [process.stdout.readline().strip() for process in processes]
    assert said.count("held") == 1
    winner = processes[said.index("held")]
    for line in said:
        if line != "held":
            assert line.startswith(f"output_uri: {uri} is in use by the ingest job (host ")
            assert f"pid {winner.pid}), since 20" in line
    for process in processes:
        process.communicate(timeout=30)
    assert names(uri) == []


def test_a_killed_process_is_not_waited_for(tmp_path, never_waits):
    (tmp_path / "go").touch()
    process = start(str(tmp_path / "out"), tmp_path / "go")
    assert [process.stdout.readline() for _ in "12"] == ["ready\n", "held\n"]
    with (
        pytest.raises(UserError, match=f"the ingest job .*pid {process.pid}"),
        leased(str(tmp_path / "out"), "x", is_dry=False),
    ):
        pass
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not buried
    with leased(str(tmp_path / "out"), "ingest", is_dry=False):
        assert names(tmp_path / "out") == [".lease-2.json"]
    process.communicate()
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_it_back(tmp_path, number):
    (tmp_path / "go").touch()
    code = """
        import sys, time
        from pipelines.outputs.folder_lease import leased
        from pipelines.cluster.runtime import end_with_one_line

        def job():
            with leased(sys.argv[1], "ingest", is_dry=False):
                print("held", flush=True)
                time.sleep(60)

        end_with_one_line(job)
    """
    process = start(str(tmp_path / "out"), tmp_path / "go", code)
    assert process.stdout.readline() == "held\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"started": "12"}, {"pid": 2**22 + 1}], ids=["its pid is another's", "no such pid"])
def test_a_process_that_is_gone_is_not_waited_for(root, change, never_waits):
    holder = Holder.of_this_process("train").model_copy(update=change)
    exclusive.create(storage.join(root, ".lease-3.json"), holder.model_dump_json().encode())
    with leased(root, "ingest", is_dry=False):
        assert names(root) == [".lease-4.json"]


def test_who_works_elsewhere_is_named_when_he_gives_a_sign(root, quick):
    holder = elsewhere()
    other = Lease(root, holder, renewed_every_s=0.05)
    other.acquire()
    with pytest.raises(
        UserError, match=r"^output_uri: \S+ is in use by the train job \(host node-7, pid 4711\), since 20"
    ):
        Lease(root, Holder.of_this_process("ingest")).acquire()
    other.release()
    with leased(root, "ingest", is_dry=False):
        assert names(root) == [".lease-1.json"]


class Clock:
    """Stands for `time`: it goes on while somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    stands_for_time = Clock()
    monkeypatch.setattr(folder_lease, "time", stands_for_time)
    return stands_for_time


@pytest.mark.parametrize("content", [elsewhere().model_dump_json().encode(), b"", b'{"job": "tr', b"\xff\0"])
def test_who_gives_no_sign_loses_it(root, clock, content):
    began_s, began_here_s = clock.now, time.monotonic()
    exclusive.create(storage.join(root, ".lease-1.json"), content)
    lease = Lease(root, Holder.of_this_process("ingest"))
    lease.acquire()
    # It is as old as what was waited, and what it took to look at it the first time, by a clock of 10 ms.
    age_s = clock.now - began_s + time.monotonic() - began_here_s
    assert age_s >= folder_lease.EXPIRES_S - 0.01
    assert clock.now - began_s <= folder_lease.EXPIRES_S + 2
    assert names(root) == [".lease-2.json"]
    lease.release()


def test_a_slow_storage_makes_nobody_seem_late(root, clock, monkeypatch):
    """Each look takes most of the time that a lease lasts, and its owner renews it after the second."""
    exclusive.create(storage.join(root, ".lease-1.json"), elsewhere().model_dump_json().encode())
    no_time = float("inf")  # as of storage that tells none
    signs = iter([(b"1", no_time), (b"1", no_time), (b"2", no_time)])

    def slow(*_):
        clock.sleep(folder_lease.EXPIRES_S * 0.7)
        return next(signs)

    monkeypatch.setattr(Lease, "_last_sign", slow)
    with pytest.raises(UserError, match="is in use by the train job"):
        Lease(root, Holder.of_this_process("ingest")).acquire()


def test_what_is_old_by_the_storages_clock_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lease.time, "sleep", lambda _: pytest.fail("it waits"))
    (tmp_path / ".lease-1.json").write_text(elsewhere().model_dump_json())
    os.utime(tmp_path / ".lease-1.json", (0, time.time() - 100))
    with leased(str(tmp_path), "ingest", is_dry=False):
        assert [path.name for path in tmp_path.iterdir()] == [".lease-2.json"]


def test_a_lease_that_is_made_since_the_look_is_respected(root, monkeypatch):
    """Another has taken the folder over and given it back, and a third holds it by the first number again."""
    exclusive.create(storage.join(root, ".lease-1.json"), elsewhere(machine=None).model_dump_json().encode())
    third = Holder.of_this_process("animate").model_dump_json().encode()

    def paused(self, *_):
        storage.write_bytes(storage.join(root, ".lease-1.json"), third)
        return True

    monkeypatch.setattr(Lease, "_is_nobodys", paused)
    lease = Lease(root, Holder.of_this_process("ingest"))
    assert not lease._try()
    assert names(root) == [".lease-1.json"]
    assert storage.read_bytes(storage.join(root, ".lease-1.json")) == third


def test_who_has_lost_it_ends_in_one_line(root, monkeypatch):
    monkeypatch.setattr(folder_lease, "_RENEWED_EVERY_S", 0.05)
    taken = r"^output_uri: \S+ was taken over by another job, .* run it again when the other has ended"

    def work():
        with leased(root, "ingest", is_dry=False):
            exclusive.create(storage.join(root, ".lease-2.json"), elsewhere().model_dump_json().encode())
            time.sleep(60)

    with pytest.raises(UserError, match=taken):
        work()
    assert ".lease-2.json" in names(root)


def test_a_renewal_that_fails_is_told_and_tried_again(root, caplog, monkeypatch):
    renewed, failures = threading.Event(), iter([UserError("no storage"), UserError("no storage")])
    original = exclusive.renew

    def renew(uri, data):
        if error := next(failures, None):
            raise error
        original(uri, data)
        renewed.set()

    monkeypatch.setattr(exclusive, "renew", renew)
    lease = Lease(root, Holder.of_this_process("ingest"), renewed_every_s=0.02)
    with caplog.at_level(logging.INFO):
        lease.acquire()
        assert renewed.wait(30)
        lease.release()
    assert caplog.text.count("could not be renewed, and is tried again: no storage") == 1
    assert caplog.text.count("is renewed again") == 1


def test_a_lease_that_somebody_has_deleted_is_made_again(tmp_path):
    lease = Lease(str(tmp_path), Holder.of_this_process("ingest"), renewed_every_s=0.02)
    lease.acquire()
    (tmp_path / ".lease-1.json").unlink()
    deadline = time.monotonic() + 30
    while not (tmp_path / ".lease-1.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease.release()
    assert list(tmp_path.iterdir()) == []


MODEL = {"motion_module": "/no/m.safetensors"}
CONFIGS = {
    "ingest": (ingest.main, IngestConfig, {"source": {"uri": "/no/a.csv"}, "base": "/no"}),
    "train": (
        train.main,
        TrainJobConfig,
        {"recipe": "finetune", "run_name": "a", "dataset_uri": "/no", "base": "/no", "model": MODEL},
    ),
    "animate": (animate.main, AnimateConfig, {"catalog_uri": "/no/c.yaml"}),
    "score": (score.main, ScoreConfig, {"scorer": "no.such:scorer"}),
}


@pytest.mark.parametrize("first", CONFIGS)
@pytest.mark.parametrize("second", CONFIGS)
def test_every_job_respects_every_other(tmp_path, first, second):
    main, schema, fields = CONFIGS[second]
    # It is refused before anything else of the config is looked at, and takes nothing away.
    config = schema.model_validate(fields | {"output_uri": str(tmp_path)})
    with leased(str(tmp_path), first, is_dry=False):
        with pytest.raises(UserError, match=f"is in use by the {first} job .*: wait for its end") as caught:
            main(config)
        assert caught.value.exit_code == 1
        assert "\n" not in str(caught.value)
        # A dry run takes no lease, and so it finds what else is wrong.
        with pytest.raises(UserError, match="no") as caught:
            main(config.model_copy(update={"dry_run": True}))
        assert "in use" not in str(caught.value)
        assert names(tmp_path) == [".lease-1.json"]
    with pytest.raises(UserError, match="no") as caught:
        main(config)
    assert "in use" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ingest.py", "--source.uri", "https://me:planted@host/a.csv?token=planted"])
    with leased(str(tmp_path), "ingest", is_dry=False):
        text = (tmp_path / ".lease-1.json").read_text()
    assert set(json.loads(text)) == {"job", "host", "pid", "since", "token", "machine", "started", "renewals"}
    assert "planted" not in text


class Unconditional(MemoryFileSystem):
    """A store that knows no conditions, and does not say so."""

    protocol = "unconditional"
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value, **kwargs)


class Unknowing(Unconditional):
    """A store that says that it knows no conditions."""

    protocol = "unknowing"

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if mode == "create":
            raise NotImplementedError
        super().pipe_file(path, value)


@pytest.mark.parametrize("store", ["local", "no hard links", "memory", "s3", "unconditional", "unknowing"])
def test_a_file_is_made_once(store, tmp_path, monkeypatch, request):
    fsspec.register_implementation("unconditional", Unconditional, clobber=True)
    fsspec.register_implementation("unknowing", Unknowing, clobber=True)
    monkeypatch.setattr(exclusive, "_SETTLE_S", 0.05)
    if store == "no hard links":

        def link(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
    if store == "s3":
        uri = request.getfixturevalue("one_by_one") + "/deep/file"
    else:
        uri = (
            str(tmp_path / "deep" / "file")
            if store in ("local", "no hard links")
            else f"{store}://deep/{tmp_path.name}"
        )
    assert exclusive.create(uri, b"one")
    assert storage.read_bytes(uri) == b"one"
    if store not in ("unconditional", "unknowing"):
        assert not exclusive.create(uri, b"two")
        assert storage.read_bytes(uri) == b"one"
        assert store != "s3" or exclusive.create(uri, b"one")  # the answer to a first try was lost
        return
    # Of two that write at once, the later has it, and the earlier finds out.
    monkeypatch.setattr(exclusive.time, "sleep", lambda _: storage.write_bytes(uri, b"later"))
    assert not exclusive.create(uri, b"earlier")
    assert storage.read_bytes(uri) == b"later"
