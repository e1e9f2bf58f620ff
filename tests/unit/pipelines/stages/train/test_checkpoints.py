"""What training does about checkpoints that are not what was written: which are left out, and that none passes."""

import errno
import json
import shutil

import pytest
import torch
from ray.train import WorkerGroupError

from animatediff.errors import UserError
from animatediff.training.config import TrainingConfig
from animatediff.training.state import checkpoint_files
from animatediff.training.state.checkpoint_files import DamagedCheckpointError
from animatediff.training.trainer import Trainer
from pipelines.stages.train.checkpoints import repair_checkpoint_index, storage_error_as_user_error
from tests.support_base import build_base
from tests.unit.data.loading.test_loader import write_dataset

NAMES = [f"step-{step:08}" for step in (2, 4, 6)]
LIST = "checkpoint_manager_snapshot.json"


def ray_list(names):
    """As Ray 2.60 writes it, with a validation that had not begun."""
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {"step": int(name[5:])}} for name in names]
    return {
        "ray_version": "2.60.0",
        "checkpoint_results": results,
        "checkpoint_report_indices": [*range(7, 7 + len(names))],
        "latest_checkpoint_result": results[-1],
        "pending_training_results": results[-1:],
        "pending_validation_specs": [True],
        "current_report_index": 7 + len(names),
        "validated_checkpoint_dir_names": names[:1],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


@pytest.fixture
def run(tmp_path):
    """A run's folder with three checkpoints."""
    for name in NAMES:
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "training_state.pt").write_bytes(b"state" * 9)
        (folder / "state.json").write_text("{}")
        checkpoint_files.write_checksums(folder)
    (tmp_path / "checkpoints" / LIST).write_text(json.dumps(ray_list(NAMES)))
    return tmp_path


def listed(run):
    content = json.loads((run / "checkpoints" / LIST).read_text())
    names = [result["checkpoint_dir_name"] for result in content["checkpoint_results"]]
    assert len(content["checkpoint_report_indices"]) == len(names)
    assert content["latest_checkpoint_result"]["checkpoint_dir_name"] == names[-1]
    assert {result["checkpoint_dir_name"] for result in content["pending_training_results"]} <= set(names)
    return names


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (shutil.rmtree, "its folder is missing or empty"),
        (lambda newest: truncate(newest / "training_state.pt"), "training_state.pt has 44 bytes, 45 were written"),
        (lambda newest: (newest / "training_state.pt").write_bytes(b""), "training_state.pt has 0 bytes"),
        (lambda newest: (newest / "state.json").unlink(), "state.json is missing"),
        (lambda newest: truncate(newest / "files.json"), None),
        (lambda newest: (newest / "files.json").write_text('{"a": 1}\n'), None),
        (lambda newest: (newest / "files.json").write_text("{"), "files.json is damaged, it is no JSON"),
    ],
)
def test_a_damaged_newest_checkpoint_is_left_out_and_named(run, damage, why, caplog):
    damage(run / "checkpoints" / NAMES[-1])
    repair_checkpoint_index(str(run))
    if why is None:
        assert listed(run) in (NAMES, NAMES[:-1])
        return
    assert listed(run) == NAMES[:-1]
    assert f"{NAMES[-1]} is damaged and left out: {why}" in caplog.text
    assert f"training goes on from checkpoint {NAMES[-2]}" in caplog.text


def test_what_is_whole_stays_as_it_is(run, caplog):
    before = json.loads((run / "checkpoints" / LIST).read_text())
    repair_checkpoint_index(str(run))
    assert json.loads((run / "checkpoints" / LIST).read_text()) == before
    assert not caplog.text


def test_one_that_a_worker_found_damaged_is_left_out_too(run):
    repair_checkpoint_index(str(run), NAMES[1:])
    assert listed(run) == NAMES[:1]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"checkpoint_results": []}', b"\xff\xfe", b"[" * 10**5])
def test_a_damaged_list_is_made_anew_from_the_folders(run, content, caplog):
    path = run / "checkpoints" / LIST
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    truncate(run / "checkpoints" / NAMES[-1] / "training_state.pt")
    repair_checkpoint_index(str(run))
    assert listed(run) == NAMES[:-1]
    assert "is missing or damaged: it is made anew" in caplog.text


def test_ray_reads_the_list_that_is_made(run):
    (run / "checkpoints" / LIST).unlink()
    repair_checkpoint_index(str(run))
    assert ray_reads(run).latest_checkpoint_result.checkpoint_dir_name == NAMES[-1]


def test_a_run_without_a_whole_checkpoint_is_not_begun_again_in_silence(run):
    with pytest.raises(UserError, match=r"no checkpoint of .* is whole: restore one, or delete .*checkpoints to begin"):
        repair_checkpoint_index(str(run), NAMES)


def ray_reads(run):
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import _CheckpointManagerState

    return _CheckpointManagerState.parse_obj(json.loads((run / "checkpoints" / LIST).read_text()))


def test_a_kill_in_the_first_checkpoint_loses_no_run(tmp_path):
    """Ray writes its list with the first whole checkpoint: until then there is an empty one."""
    repair_checkpoint_index(str(tmp_path))
    assert ray_reads(tmp_path).checkpoint_results == []
    half = tmp_path / "checkpoints" / NAMES[0]
    half.mkdir()
    (half / "training_state.pt").write_bytes(b"st")
    repair_checkpoint_index(str(tmp_path))
    assert ray_reads(tmp_path).checkpoint_results == []
    assert ray_reads(tmp_path).latest_checkpoint_result is None


def of_training(cause, where="_upload_checkpoint"):
    return WorkerGroupError(f"Traceback ...\n  in {where}\n{cause}", {0: cause})


REFUSALS = [
    (of_training(OSError(errno.ENOSPC, "Error writing bytes")), "Error writing bytes .make room there"),
    (of_training(OSError(errno.EDQUOT, "quota"), where="_save_state"), "quota .make room there"),
    (of_training(PermissionError(errno.EACCES, "Access Denied")), "Access Denied"),
    (of_training(OSError(errno.EIO, "Please reduce your request rate")), "Please reduce your request rate"),
]


@pytest.mark.parametrize(("error", "says"), REFUSALS)
@pytest.mark.parametrize("half", ["training_state.pt", "files.json"])
@pytest.mark.parametrize("the_list", ["whole", "cut"])
def test_what_a_storage_refused_is_one_line_and_leaves_nothing(run, error, says, half, the_list):
    newest = run / "checkpoints" / NAMES[-1]
    if half == "files.json":
        (newest / half).unlink()  # it came last
    else:
        truncate(newest / half)
    if the_list == "cut":
        (run / "checkpoints" / LIST).write_text("")
    with (
        pytest.raises(UserError, match=rf"cannot use \S+/checkpoints: {says}") as caught,
        storage_error_as_user_error(str(run), NAMES[:2]),
    ):
        raise error
    assert "\n" not in str(caught.value)
    assert not newest.exists()
    if the_list == "cut":
        assert listed(run) == NAMES[:-1]
        repair_checkpoint_index(str(run))
        assert listed(run) == NAMES[:-1]


@pytest.mark.parametrize(
    "error",
    [
        of_training(OSError(errno.ECONNRESET, "by peer"), where="all_reduce"),
        of_training(ValueError("odd")),
        KeyError("x"),
    ],
)
def test_what_no_storage_has_refused_stays_as_it_is(run, error):
    with pytest.raises(type(error)) as caught, storage_error_as_user_error(str(run), []):
        raise error
    assert caught.value is error
    assert all((run / "checkpoints" / name).exists() for name in NAMES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A trainer, and the folder of a checkpoint of it."""
    root = tmp_path_factory.mktemp("trained")
    dataset = write_dataset(root / "data", shards=(2,), shapes=((3, 4, 8, 8),))
    base = str(build_base(root / "base"))
    recipe = TrainingConfig(dataset_uri=dataset, base=base, train={"num_steps": 1, "batch_size": 1})
    trainer = Trainer(recipe, device=torch.device("cpu"))
    folder = root / "checkpoint"
    folder.mkdir()
    trainer.save(folder, step=0)
    return trainer, folder


@pytest.mark.parametrize("name", ["motion_module.safetensors", "training_state.pt", "state.json", "files.json"])
@pytest.mark.parametrize("place", [0.05, 0.5, 0.95, "cut", "gone"])
def test_no_damage_of_a_checkpoint_is_gone_on_from(saved, tmp_path, name, place):
    trainer, whole = saved
    folder = shutil.copytree(whole, tmp_path / "checkpoint")
    content = bytearray((folder / name).read_bytes())
    if place == "gone":
        (folder / name).unlink()
    elif place == "cut":
        (folder / name).write_bytes(content[:-5])
    else:
        content[int(place * len(content))] ^= 1
        (folder / name).write_bytes(content)
    if (name, place) == ("files.json", "gone"):  # as from before there was one: the others are whole
        assert trainer.load(folder) == 0
        return
    with pytest.raises(DamagedCheckpointError):
        trainer.load(folder)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"PK"), lambda path: path.unlink(), truncate])
def test_damage_of_a_checkpoint_without_checksums_is_told_where_it_can_be(saved, tmp_path, damage):
    trainer, whole = saved
    folder = shutil.copytree(whole, tmp_path / "checkpoint")
    (folder / "files.json").unlink()
    damage(folder / "training_state.pt")
    with pytest.raises(DamagedCheckpointError, match="cannot be read"):
        trainer.load(folder)
