"""Training that loses a worker, changes its size, meets bad clips, and is looked at on its way."""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from animatediff.training.trainer import Trainer
from animatediff.weights import motion_modules
from pipelines.settings import TrainJobConfig
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
            compute={"precision": "float32"},  # whatever the workers' processor is
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


def undisturbed(config):
    """The losses by step and the weights of the same training by one worker, in this process."""
    trainer = Trainer(config, device=torch.device("cpu"))
    losses = {step: (result.loss_sums[0].sum() / result.loss_sums[1].sum()).item() for step, result in trainer.steps(0)}
    trainer.write_weights("undisturbed/motion_module.safetensors")
    return losses, weights("undisturbed")


def kill_a_worker_after(step, output):
    """Wait in a thread for a checkpoint, then kill one training worker without a warning."""
    killed = []

    def watch():
        deadline = time.monotonic() + 600
        while not Path(output, "checkpoints", f"step-{step:08}", "state.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = [pid for pid, command in below(os.getpid()).items() if "TrainWorker" in command]
        kill(workers[-1:])
        killed.extend(workers[-1:])

    thread = threading.Thread(target=watch)
    thread.start()
    return thread, killed


def test_a_run_that_loses_a_worker_recovers_by_itself_and_goes_on_with_fewer_on_the_same_batches(
    workers_here, make_config
):
    # Elastic: as many workers as there are, which is two.
    elastic = {"num_workers": (2, 4), "cpus_per_worker": 1, "max_failures": 1}
    config = make_config("lost", num_steps=STEPS - 2, scaling=elastic)
    thread, killed = kill_a_worker_after(2, "lost")
    assert main(config).num_steps == STEPS - 2
    thread.join()
    assert len(killed) == 1
    run = main(make_config("lost"))
    assert run.num_steps == STEPS
    expected_losses, first = undisturbed(make_config("lost"))
    assert losses(run) == pytest.approx(expected_losses, rel=1e-4)
    assert [metric.step for metric in history(run, "loss")] == list(range(1, STEPS + 1))
    runs = client().search_runs(["1"], "attributes.run_name = 'lost'")
    assert [found.info.status for found in runs] == ["FINISHED"]
    other = weights("lost")
    assert (first - other).norm() < 1e-6 * first.norm()
    assert (first - other).abs().max() < 1e-5  # AdamW divides by tiny second moments, so that a few roundings grow


@pytest.mark.slow  # skips are tested of a Trainer, of several workers' clips and of the watcher that notes them
def test_bad_clips_are_skipped_noted_and_do_not_stop_the_run(workers_here, make_config, workplace):
    write_dataset(workplace / "bad", shards=(9,), shapes=(SHAPE,))
    poison(workplace / "bad", "clip-003", SHAPE)
    run = main(make_config("bad-run", dataset="bad", scaling={"num_workers": 2}))
    noted = [json.loads(line) for line in Path("bad-run/skipped.jsonl").read_text().splitlines()]
    assert {tuple(entry["clip_ids"]) for entry in noted} == {("clip-003",)}
    assert len(noted) in (3, 4)  # 32 places for 9 clips
    assert [metric.value for metric in history(run, "skipped_steps")][-1] == len(noted)
    assert weights("bad-run").isfinite().all()


def test_checkpoints_are_looked_at_beside_the_training_and_a_tracking_server_that_is_late_has_all_of_it(
    workers_here, make_config, monkeypatch
):
    answers = iter([ConnectionError("away")])

    def open_late():
        for error in answers:
            raise error
        return open_client()

    monkeypatch.setattr(tracking, "open_client", open_late)
    config = make_config("watched", holdout=0.3, sample={"every": 4, "prompts": ("one", "two"), "num_loss_clips": 3})
    run = main(config)
    assert next(answers, None) is None
    assert json.loads(Path("watched/run.json").read_text())["mlflow_run_id"] == run.mlflow_run_id
    assert client().get_run(run.mlflow_run_id).info.status == "FINISHED"
    assert list(losses(run)) == list(range(1, STEPS + 1))
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
