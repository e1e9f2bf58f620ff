"""A disk without room and a store that refuses: one line with the remedy, nothing half, and a rerun goes on."""

import errno
import os
import resource
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import s3fs
import torch

from animatediff import storage
from animatediff.data.ingest import parts, provenance, seal
from animatediff.data.manifest import Manifest, write_manifest
from animatediff.errors import UserError
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results.ledger import make_result, write_item
from animatediff.rendering.results.reports import write_reports
from animatediff.rendering.results.table import write_table
from animatediff.sprites import shipped
from animatediff.storage import exclusive
from animatediff.storage.full import is_full
from animatediff.training.config import TrainingConfig
from animatediff.training.state import checkpoint_files
from animatediff.training.trainer import Trainer
from animatediff.weights.reading.tensors import save_tensors
from pipelines.tracking.tracker import Tracker
from tests.integration.faulty_proxy import RefusingProxy
from tests.support_data import LATENT_ENCODING, clip_row, make_videos, plan
from tests.unit.data.loading.test_loader import write_dataset

RESULTS = [
    make_result(
        Item(digest=f"{number:064x}", entry="one", model="m", prompt="a cat", seed=number),
        status="ok",
        files={"mp4": f"clips/{number}.mp4"},
    )
    for number in range(3)
]
ROWS = [clip_row(video, "u") for video in make_videos(3)]
MANIFEST = Manifest(
    dataset_key="key",
    encoder_fp="fp",
    scaling_factor=1.0,
    num_units=1,
    num_videos=1,
    num_clips=1,
    quarantined={},
    shards=[],
)


def write_clip(root):
    storage.write_bytes(storage.join(root, "clips/a.mp4"), b"clip" * 100)


def write_shard(root):
    return seal.write_shard(
        root, seal.ShardPlan("bucket=2x16x16/shard-00000.parquet", "2x16x16", ("u",)), LATENT_ENCODING
    )


# By name: what is there before, and the writer.
WRITERS = {
    "plan settings": (None, lambda root: provenance.write_settings(root, {"clips": "x" * 100})),
    "plan segment": (None, lambda root: plan(root, make_videos(3))),
    "part": (None, lambda root: parts.commit(root, "u", ROWS, [])),
    "shard": (lambda root: parts.commit(root, "u", ROWS, []), write_shard),
    "manifest": (None, lambda root: write_manifest(root, MANIFEST)),
    "weights": (None, lambda root: save_tensors(storage.join(root, "m.safetensors"), {"a": torch.zeros(99)}, {})),
    "clip": (None, write_clip),
    "ledger item": (None, lambda root: write_item(root, RESULTS[0])),
    "ledger table": (None, lambda root: write_table(root, RESULTS)),
    "gallery": (lambda root: write_table(root, RESULTS), lambda root: write_reports(root, RESULTS)),
    "lease": (None, lambda root: exclusive.create(storage.join(root, ".lease-1.json"), b"held by me" * 10)),
}


@contextmanager
def files_up_to(num_bytes):
    """The kernel itself refuses more of any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refuse(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full(moment):
    with pytest.MonkeyPatch.context() as patch:
        if moment == "making its folder":
            patch.setattr(Path, "mkdir", refuse)
        elif moment == "the last bytes":
            patch.setattr(os, "fsync", refuse)
            patch.setattr(os, "link", refuse)
        with files_up_to(50 if moment == "writing" else resource.RLIM_INFINITY):
            yield


def content(root):
    return {name: storage.read_bytes(storage.join(root, name)) for name in storage.find_files(root)}


def check_refused(write, root, before, says):
    with pytest.raises(UserError, match=says) as caught:
        write(root)
    assert "\n" not in str(caught.value)
    assert root in str(caught.value)
    assert content(root) == before


@pytest.mark.parametrize("moment", ["making its folder", "writing", "the last bytes"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(tmp_path, name, moment):
    prepare, write = WRITERS[name]
    for root in ("room", "full"):
        (tmp_path / root).mkdir()
        if prepare:
            prepare(str(tmp_path / root))
    write(str(tmp_path / "room"))
    root = str(tmp_path / "full")
    with full(moment):
        check_refused(write, root, content(root), r"cannot use \S+: .* \(make room there or raise its quota")
    write(root)  # as a rerun does
    if name in ("ledger table", "gallery"):  # which hold the folder's own name
        assert content(root).keys() == content(str(tmp_path / "room")).keys()
    else:
        assert content(root) == content(str(tmp_path / "room"))


@pytest.fixture
def store(s3, moto, monkeypatch):
    proxy = RefusingProxy(urlsplit(moto).hostname, urlsplit(moto).port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    s3fs.S3FileSystem.clear_instance_cache()
    yield proxy
    proxy.stop()


FULL = "make room there or raise its quota"
CHECK = "check the bucket's name, the endpoint and the credentials"
REFUSALS = [
    ((507, "InsufficientStorage"), FULL),
    ((403, "QuotaExceeded"), FULL),
    ((400, "XMinioStorageFull"), FULL),
    ((403, "AccessDenied"), CHECK),
]


@pytest.mark.parametrize("name", WRITERS)
def test_an_object_store_that_refuses(store, tmp_path, name):
    prepare, write = WRITERS[name]
    root = f"s3://videos/{tmp_path.name}"
    if prepare:
        prepare(root)
    before = content(root)
    for refusal, remedy in REFUSALS:
        store.refusal = refusal
        check_refused(write, root, before, rf"cannot reach s3://\S+: .*\({remedy}")
    store.refusal = None
    write(root)
    (tmp_path / "room").mkdir()
    if prepare:
        prepare(str(tmp_path / "room"))
    write(str(tmp_path / "room"))
    assert content(root).keys() == content(str(tmp_path / "room")).keys()
    if name not in ("ledger table", "gallery"):
        assert content(root) == content(str(tmp_path / "room"))


@pytest.mark.slow
def test_a_store_that_is_overloaded_for_long(store):
    store.refusal = (503, "SlowDown")
    with pytest.raises(UserError, match=rf"cannot reach s3://videos/a: .*\({CHECK}"):
        storage.write_bytes("s3://videos/a", b"x")
    store.refusal = None
    assert not storage.exists("s3://videos/a")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    dataset = write_dataset(tmp_path_factory.mktemp("trained") / "data", shapes=((4, 8, 8, 8),))
    own = {"dataset_uri": dataset, "base": str(shipped.BASE), "recipe": "finetune", "train": {"num_steps": 1}}
    recipe = TrainingConfig.model_validate(own | {"model": {"motion_module": str(shipped.MOTION_MODULE)}})
    made = Trainer(recipe, device=torch.device("cpu"))
    next(iter(made.steps(0)))  # or the state would be less than the weights
    return made


@pytest.mark.parametrize("moment", ["weights", "state", "list of files"])
def test_a_checkpoint_on_a_full_disk(trainer, tmp_path, moment, monkeypatch):
    (tmp_path / "room").mkdir()
    trainer.save(tmp_path / "room", step=1)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "room").iterdir()}
    (tmp_path / "full").mkdir()
    limits = {"weights": 1000, "state": sizes["motion_module.safetensors"], "list of files": resource.RLIM_INFINITY}
    assert sizes["training_state.pt"] > limits["state"]
    with monkeypatch.context() as patch, files_up_to(limits[moment]):
        if moment == "list of files":
            patch.setattr(Path, "write_bytes", refuse)
        with pytest.raises(UserError, match=r"cannot use \S+full\S*: .*\(make room there") as caught:
            trainer.save(tmp_path / "full", step=1)
    assert "\n" not in str(caught.value)
    # What is there is no checkpoint, and is known as none.
    assert not (tmp_path / "full" / checkpoint_files.CHECKSUMS_FILE).exists()
    trainer.save(tmp_path / "full", step=1)
    checkpoint_files.verify_checksums(tmp_path / "full")


def test_mlflows_file_on_a_full_disk_costs_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with files_up_to(100_000), Tracker("run", run_id=None, params={}, tags={}) as tracker:
        tracker.log_metrics(1, {"loss": 1.0})
    warnings = [record.message for record in caplog.records if record.name.startswith("pipelines")]
    assert len(warnings) == 1
    assert "the run goes on without it" in warnings[0]


def error_from(number, *causes):
    error = OSError(number, os.strerror(number))
    for cause in causes:
        error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (OSError(errno.EACCES, "x"), False),
        (RuntimeError("PytorchStreamWriter failed: No space left on device"), True),
        (RuntimeError("unexpected pos 576 vs 534"), False),
        (error_from(errno.EIO, OSError(errno.ENOSPC, "x")), True),
        (UserError("the loss is not finite"), False),
    ],
)
def test_how_a_full_storage_is_known(error, expected):
    assert is_full(error) is expected
