"""Training that loses a worker, changes its size, meets bad clips, and is looked at on its way."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from animatediff.errors import UserError
from animatediff.weights import motion_modules
from pipelines.settings import TrainJobConfig
from pipelines.stages.train import launch as train
from pipelines.stages.train.checkpoints import repair_checkpoint_index
from pipelines.tracking import tracker as tracking
from pipelines.tracking.tracker import open_client
from pipelines.train import main
from tests.integration.processes import below, kill
from tests.unit.data.loading.test_loader import write_dataset
from tests.unit.training.recipes.test_recipes import poison

# Large enough for well-conditioned norms: in tiny latents rounding of 1e-8 grows chaotically.
SHAPE = (4, 4, 16, 16)
STEPS = 8


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder to run in, with a dataset; MLflow's file and the runs come beside it."""
    folder = tmp_path_factory.mktemp("faults")
    write_dataset(folder / "dataset", shards=(9, 8), shapes=(SHAPE,))
    return folder


@pytest.fixture
def make_config(workplace, base, monkeypatch):
    monkeypatch.chdir(workplace)

    def make(name, *, scaling=None, sample=None, dataset="dataset", **train):
        return TrainJobConfig(
            run_name=name,
            dataset_uri=dataset,
            base=base,
            output_uri=name,
            train={"num_steps": STEPS, "batch_size": 4, "log_every": 1, "checkpoint_every": 2} | train,
            scaling={"num_workers": 1, "cpus_per_worker": 0.5, "max_failures": 0} | (scaling or {}),
            sample={"num_inference_steps": 2} | (sample or {}),
        )

    return make


def client():
    # Absolute: MLflow keeps one store an address, and other tests use the same relative one in their folders.
    return MlflowClient(f"sqlite:///{Path('runs/mlflow.db').resolve()}")


def history(run, name):
    return client().get_metric_history(run.mlflow_run_id, name)


def losses(run):
    return {metric.step: metric.value for metric in history(run, "loss")}


def weights(output):
    state = motion_modules.read(f"{output}/motion_module.safetensors").state_dict()
    return torch.cat([tensor.flatten() for tensor in state.values()])


@pytest.fixture(scope="module")
def undisturbed():
    return {}


@pytest.fixture
def straight(cluster, make_config, undisturbed):
    """A run of one worker that nothing happened to, made once."""
    if not undisturbed:
        undisturbed["run"] = main(make_config("straight"))
    return undisturbed["run"]


def kill_a_worker_after(step, output):
    """Wait in a thread for a checkpoint, then kill one training worker without a warning."""
    killed = []

    def watch():
        deadline = time.monotonic() + 120
        while not Path(output, "checkpoints", f"step-{step:08}", "state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = [pid for pid, command in below(os.getpid()).items() if "TrainWorker" in command]
        kill(workers[-1:])
        killed.extend(workers[-1:])

    thread = threading.Thread(target=watch)
    thread.start()
    return thread, killed


def test_a_run_that_loses_a_worker_recovers_by_itself_and_skips_no_batch(straight, make_config):
    config = make_config("lost", scaling={"num_workers": 2, "max_failures": 1})
    thread, killed = kill_a_worker_after(2, "lost")
    run = main(config)
    thread.join()
    assert len(killed) == 1
    assert run.num_steps == STEPS
    assert losses(run) == pytest.approx(losses(straight), rel=1e-4)
    assert [metric.step for metric in history(run, "loss")] == list(range(1, STEPS + 1))
    runs = client().search_runs(["1"], "attributes.run_name = 'lost'")
    assert [found.info.status for found in runs] == ["FINISHED"]


def test_more_and_fewer_workers_go_on_with_the_same_batches(straight, make_config):
    main(make_config("sizes", num_steps=2))
    # Elastic: as many as there are, which is two.
    main(make_config("sizes", num_steps=6, scaling={"num_workers": (2, 4), "cpus_per_worker": 1}))
    run = main(make_config("sizes"))
    assert losses(run) == pytest.approx(losses(straight), rel=1e-4)
    first, other = weights("straight"), weights("sizes")
    assert (first - other).norm() < 1e-6 * first.norm()
    assert (first - other).abs().max() < 1e-5  # AdamW divides by tiny second moments, so that a few roundings grow


def test_bad_clips_are_skipped_noted_and_do_not_stop_the_run(cluster, make_config, workplace):
    write_dataset(workplace / "bad", shards=(9,), shapes=(SHAPE,))
    poison(workplace / "bad", "clip-003", SHAPE)
    run = main(make_config("bad-run", dataset="bad", scaling={"num_workers": 2}))
    noted = [json.loads(line) for line in Path("bad-run/skipped.jsonl").read_text().splitlines()]
    assert {tuple(entry["clip_ids"]) for entry in noted} == {("clip-003",)}
    assert len(noted) in (3, 4)  # 32 places for 9 clips
    assert [metric.value for metric in history(run, "skipped_steps")][-1] == len(noted)
    assert weights("bad-run").isfinite().all()
    with pytest.raises(UserError, match=r"1 steps in a row.*leave out bad clips.*clips: clip-003\."):
        main(make_config("bad-strict", dataset="bad", max_skipped_steps=0))


def test_checkpoints_are_looked_at_beside_the_training(cluster, make_config):
    config = make_config("watched", holdout=0.3, sample={"every": 4, "prompts": ("one", "two"), "num_loss_clips": 3})
    run = main(config)
    found = {path.relative_to("watched").as_posix() for path in Path("watched/validation").rglob("*.*")}
    names = ("0.gif", "0.mp4", "1.gif", "1.mp4")
    assert found == {f"validation/step-{step:08}/{name}" for step in (4, 8) for name in names}
    measured = {metric.step: metric.value for metric in history(run, "val_loss")}
    assert set(measured) == {4, 8}
    best = json.loads(Path("watched/best.json").read_text())
    assert best["val_loss"] == min(measured.values()) == measured[best["step"]]
    kept = motion_modules.read("watched/best_motion_module.safetensors").state_dict()
    last = motion_modules.read("watched/motion_module.safetensors").state_dict()
    is_last = all(np.array_equal(a, b) for a, b in zip(kept.values(), last.values(), strict=True))
    assert is_last == (best["step"] == STEPS)
    folders = [file.path for file in client().list_artifacts(run.mlflow_run_id, "validation")]
    assert folders == ["validation/step-00000004", "validation/step-00000008"]


def test_a_base_that_can_render_nothing_has_its_loss_measured_all_the_same(cluster, make_config, base, caplog):
    shutil.copytree(base, "no-vae", ignore=shutil.ignore_patterns("vae"))
    sample = {"every": 4, "prompts": ("one",), "num_loss_clips": 2}
    config = make_config("blind", num_steps=4, holdout=0.3, sample=sample).model_copy(update={"base": "no-vae"})
    run = main(config)
    assert [metric.step for metric in history(run, "val_loss")] == [4]
    assert Path("blind/best_motion_module.safetensors").exists()
    assert "the validation of step 4 is not complete: " in caplog.text


def test_a_tracking_server_that_answers_only_at_the_end_has_the_whole_run(cluster, make_config, monkeypatch):
    answers = iter([ConnectionError("away")])

    def open_late():
        for error in answers:
            raise error
        return open_client()

    monkeypatch.setattr(tracking, "open_client", open_late)
    run = main(make_config("late", num_steps=2))
    assert json.loads(Path("late/run.json").read_text())["mlflow_run_id"] == run.mlflow_run_id
    assert list(losses(run)) == [1, 2]
    assert client().get_run(run.mlflow_run_id).info.status == "FINISHED"


def damage_bits(folder):
    path = folder / "motion_module.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def damage_list(folder):
    path = folder.parent / "checkpoint_manager_snapshot.json"
    path.write_bytes(path.read_bytes()[:100])
    (folder / "training_state.pt").write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_bits, damage_list])
def test_a_damaged_newest_checkpoint_costs_its_steps_alone(straight, make_config, damage, caplog):
    name = damage.__name__
    shutil.copytree("straight", name)
    state = json.loads(Path(name, "run.json").read_text())
    Path(name, "run.json").write_text(json.dumps(state | {"num_steps": 0, "mlflow_run_id": None}))
    damage(Path(name, "checkpoints", "step-00000008"))
    run = main(make_config(name).model_copy(update={"run_name": "straight"}))
    assert "step-00000008 is damaged and left out" in caplog.text
    assert "training goes on from checkpoint step-00000006" in caplog.text
    assert losses(run) == {step: losses(straight)[step] for step in (7, 8)}
    assert torch.equal(weights(name), weights("straight"))


def test_a_list_that_a_dying_run_still_writes_to_is_read_again(straight, make_config, caplog, monkeypatch):
    shutil.copytree("straight", "written")
    path = Path("written/checkpoints/checkpoint_manager_snapshot.json")
    half_written = [b"", path.read_bytes().replace(b"step-00000006", b"step-00000099")]

    def leave_out_then_write(run_uri, known=()):
        repair_checkpoint_index(run_uri, known)
        if half_written:
            path.write_bytes(half_written.pop(0))

    monkeypatch.setattr(train, "repair_checkpoint_index", leave_out_then_write)
    state = json.loads(Path("written/run.json").read_text())
    Path("written/run.json").write_text(json.dumps(state | {"num_steps": 0, "mlflow_run_id": None}))
    run = main(make_config("written", num_steps=STEPS + 1).model_copy(update={"run_name": "straight"}))
    assert caplog.text.count("by a run that is ending: trying again") == 2
    assert list(losses(run)) == [STEPS + 1]


def test_fewer_steps_than_are_done_are_refused(straight, make_config):
    config = make_config("straight", num_steps=STEPS - 2)
    state = json.loads(Path("straight/run.json").read_text())
    # As after a kill: the checkpoints are there, but no job has come to its end.
    Path("straight/run.json").write_text(json.dumps(state | {"num_steps": 0}))
    try:
        with pytest.raises(UserError, match=r"has done 8 steps already, more than train\.num_steps 6"):
            main(config)
    finally:
        Path("straight/run.json").write_text(json.dumps(state))


def test_a_changed_config_goes_on_where_it_is_allowed(straight, make_config):
    changed = make_config("straight", num_steps=STEPS + 1, caption_dropout=0.5)
    with pytest.raises(UserError, match=r"train\.caption_dropout: 0\.1 -> 0\.5: .*--allow-config-change"):
        main(changed)
    run = main(changed.model_copy(update={"allow_config_change": True}))
    assert run.num_steps == STEPS + 1
