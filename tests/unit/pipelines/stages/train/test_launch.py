import logging
import types

import pytest

from animatediff.errors import UserError
from pipelines.cluster import runtime
from pipelines.settings import ScalingConfig
from pipelines.stages.train import launch as train
from pipelines.stages.train import worker as train_worker
from pipelines.stages.train.launch import Workers


@pytest.fixture
def cluster(monkeypatch):
    """Sets the GPUs of a cluster of two machines with 8 CPUs each."""

    def set_gpus(number):
        for module in (runtime, train):
            monkeypatch.setattr(module, "num_gpus", lambda: number)
        nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}] * 2 + [{"Alive": False, "Resources": {"CPU": 1.0}}]
        monkeypatch.setattr(train.ray, "nodes", lambda: nodes)

    return set_gpus


def plan(*, batch_size=32, validates=False, **scaling):
    return Workers.plan(ScalingConfig(**scaling), batch_size=batch_size, validates=validates)


@pytest.mark.parametrize(
    ("gpus", "batch_size", "validates", "number", "spare"),
    [(4, 32, False, 4, False), (4, 32, True, 3, True), (4, 2, True, 2, True), (1, 32, True, 1, False)],
)
def test_by_default_every_gpu_trains_but_one_for_validations(cluster, gpus, batch_size, validates, number, spare):
    cluster(gpus)
    assert plan(batch_size=batch_size, validates=validates) == Workers(number, True, 1.0, spare)


def test_validations_that_find_no_gpu_left_are_told_of(cluster, caplog):
    cluster(4)
    assert plan(num_workers=3, validates=True).spare_gpu
    assert not plan(num_workers=4).spare_gpu
    assert caplog.records == []
    assert not plan(num_workers=(2, 4), validates=True).spare_gpu
    (line,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "sample.every" in line
    assert "scaling.num_workers" in line


def test_on_cpus_one_worker_has_a_machine_and_more_share_them(cluster, caplog):
    cluster(0)
    assert plan(validates=True) == Workers(1, False, 8.0, spare_gpu=False)
    assert plan(num_workers=4).cpus == 4.0
    assert plan(num_workers=(1, 3)).cpus == 4.0
    assert plan(num_workers=2, cpus_per_worker=0.5).cpus == 0.5
    assert caplog.records == []


def test_gpus_that_are_not_there_yet_need_a_number(cluster):
    cluster(0)
    with pytest.raises(UserError, match=r"scaling\.use_gpu needs scaling\.num_workers"):
        plan(use_gpu=True)


def test_a_machine_that_does_not_see_the_runs_folder_says_so_at_once(tmp_path):
    with pytest.raises(UserError, match=r"does not see the run's folder .*output_uri must be storage that all"):
        train_worker._check_run_folder_is_shared(str(tmp_path))
    (tmp_path / "run.json").write_text("{}")
    train_worker._check_run_folder_is_shared(str(tmp_path))


def test_a_checkpoint_waits_while_two_are_being_uploaded(tmp_path, monkeypatch):
    """Ray Train removes a folder when it is uploaded."""
    checkpoints = train_worker._CheckpointUploader.__new__(train_worker._CheckpointUploader)
    checkpoints._local = tmp_path / "checkpoints"
    slept = []

    def upload_one(seconds):
        slept.append(seconds)
        next(checkpoints._local.iterdir()).rmdir()

    monkeypatch.setattr(train_worker, "time", types.SimpleNamespace(sleep=upload_one))
    checkpoints._wait_for_uploads()
    for name in ("step-1", "step-2"):
        (checkpoints._local / name).mkdir(parents=True)
    checkpoints._wait_for_uploads()
    assert len(slept) == 1
    checkpoints._wait_for_uploads()
    assert len(slept) == 1
