"""The train job on a real local Ray cluster."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

from animatediff.errors import UserError
from animatediff.weights import motion_modules
from pipelines.settings import TrainJobConfig
from pipelines.stages.train import launch as train
from pipelines.stages.train.checkpoints import repair_checkpoint_index
from pipelines.stages.train.run import start_or_resume
from pipelines.train import main
from tests.integration.conftest import REPOSITORY
from tests.integration.scraping import exported
from tests.support import write_yaml
from tests.unit.data.loading.test_loader import write_dataset

pytestmark = pytest.mark.ray

STEPS = 8
# With 8 x 8 latents the deepest feature map is one pixel, and the sprite base's norms of two values round chaotically.
SHAPE = (4, 4, 16, 16)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder to run in, with a dataset; MLflow's file and the runs come beside it."""
    folder = tmp_path_factory.mktemp("train")
    write_dataset(folder / "dataset", shards=(6, 5), shapes=(SHAPE,))
    return folder


@pytest.fixture
def make_config(workplace, base, monkeypatch):
    monkeypatch.chdir(workplace)

    def make(name, **train):
        return TrainJobConfig(
            run_name=name,
            dataset_uri="dataset",
            base=base,
            output_uri=name,
            train={"num_steps": STEPS, "batch_size": 4, "log_every": 1, "checkpoint_every": 2, "ema_decay": 0.9}
            | train,
            optim={"lr": 3e-3},
            scaling={"num_workers": 1, "cpus_per_worker": 0.5, "max_failures": 0},
            sample={"num_inference_steps": 2},
            compute={"precision": "float32"},  # whatever the workers' processor is
        )

    return make


def losses(run):
    history = MlflowClient("sqlite:///runs/mlflow.db").get_metric_history(run.mlflow_run_id, "loss")
    return {metric.step: metric.value for metric in history}


def weights(output):
    return motion_modules.read(f"{output}/motion_module.safetensors").state_dict()


@pytest.fixture
def one_worker(cluster, make_config):
    """A finished run, made once."""
    return main(make_config("one"))


def test_a_run_leaves_module_checkpoints_sample_and_metrics(one_worker, make_config):
    assert one_worker.num_steps == STEPS
    assert sorted(path.name for path in Path("one").iterdir()) == [
        "checkpoints",
        "config.yaml",
        "motion_module.safetensors",
        "run.json",
        "sample",
    ]
    assert sorted(path.name for path in Path("one/sample").iterdir()) == ["0.gif", "0.mp4"]
    assert sorted(path.name for path in Path("one/checkpoints").glob("step-*")) == ["step-00000006", "step-00000008"]
    assert TrainJobConfig.model_validate(yaml.safe_load(Path("one/config.yaml").read_text())) == make_config("one")
    client = MlflowClient("sqlite:///runs/mlflow.db")
    run = client.get_run(one_worker.mlflow_run_id)
    assert run.info.status == "FINISHED"
    quarters = {f"loss_q{i}" for i in range(1, 5)}
    others = {"loss", "grad_norm", "lr", "clips_per_s", "data_wait", "peak_memory_gb", "skipped_steps"}
    assert set(run.data.metrics) == quarters | others
    assert 0.1 < run.data.metrics["peak_memory_gb"] < 10
    assert run.data.params["train.seed"] == "42"
    assert len(run.data.tags["dataset_digest"]) == 64
    artifacts = {file.path for file in client.list_artifacts(one_worker.mlflow_run_id)}
    assert artifacts == {"config.yaml", "models", "sample"}
    (version,) = client.search_model_versions("name='one'")
    assert version.run_id == one_worker.mlflow_run_id
    assert version.tags["recipe"] == "motion_module"


def test_what_is_exported_of_a_run(one_worker):
    told = exported(Path("one").absolute())
    assert (told["train_steps_total",], told["train_clips_total",], told["job_ends_total", "done"]) == (8, 32, 1)
    assert told["train_loss",] == pytest.approx(losses(one_worker)[STEPS])
    assert (told["train_step",], told["mlflow_up",], told["job_progress_ratio",]) == (STEPS, 1, 1)
    # Later than the training's begin, which is before its first entry.
    written = Path("one/checkpoints/step-00000008").stat().st_mtime
    assert written - 1 < told["train_checkpoint_timestamp_seconds",] < time.time()


def test_a_finished_run_is_left_alone_and_a_changed_config_is_refused(one_worker, make_config, caplog):
    before = Path("one/motion_module.safetensors").stat().st_mtime_ns
    assert main(make_config("one")) == one_worker
    assert Path("one/motion_module.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"differs in train\.seed: 42 -> 7: change it back"):
        main(make_config("one", seed=7))


def test_a_workers_error_reaches_the_user_as_one_line(one_worker, make_config):
    state = json.loads(Path("one/run.json").read_text())
    # As after a kill: the checkpoints are there, but no job has come to its end.
    Path("one/run.json").write_text(json.dumps(state | {"num_steps": 0}))
    try:
        with pytest.raises(UserError, match=r"has done 8 steps already, more than train\.num_steps 6") as caught:
            main(make_config("one", num_steps=STEPS - 2))
    finally:
        Path("one/run.json").write_text(json.dumps(state))
    assert "\n" not in str(caught.value)


def test_a_killed_job_goes_on_even_longer_and_gives_the_very_same_weights(
    one_worker, workers_here, make_config, workplace
):
    shorter = make_config("killed", num_steps=STEPS - 2)
    path = write_yaml(workplace / "killed.yaml", shorter.model_dump(mode="json"))
    command = [sys.executable, str(REPOSITORY / "pipelines/train.py"), "--config", path]
    job = subprocess.Popen(command, cwd=workplace)
    snapshot = workplace / "killed/checkpoints/checkpoint_manager_snapshot.json"
    deadline = time.monotonic() + 600
    try:
        while not (snapshot.exists() and "step-" in snapshot.read_text()):
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        job.kill()
        job.wait()
    killed = json.loads((workplace / "killed/run.json").read_text())
    assert killed["num_steps"] == 0
    assert not (workplace / "killed/motion_module.safetensors").exists()

    rerun = main(make_config("killed"))
    assert rerun.mlflow_run_id == killed["mlflow_run_id"]
    # Metrics that were on their way when the driver died are lost; the steps are not.
    assert losses(rerun).items() <= losses(one_worker).items()
    assert STEPS in losses(rerun)
    expected = weights("one")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights("killed").items())
    assert tensors(state("killed")) == tensors(state("one"))


def state(output):
    """Weights, moments and the rest of the last checkpoint."""
    return torch.load(f"{output}/checkpoints/step-{STEPS:08}/training_state.pt", weights_only=True)


def tensors(value):
    """With all tensors as bytes, so that equality is that of every bit."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: tensors(item) for key, item in value.items()}
    return [tensors(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_a_damaged_newest_checkpoint_costs_its_steps_alone(one_worker, workers_here, make_config, caplog, monkeypatch):
    """Flipped bits, which only the workers see; and the list is damaged, and written to by a run that is ending."""
    shutil.copytree("one", "damaged")
    state = json.loads(Path("damaged/run.json").read_text())
    Path("damaged/run.json").write_text(json.dumps(state | {"num_steps": 0, "mlflow_run_id": None}))
    path = Path("damaged/checkpoints/step-00000008/motion_module.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    path = Path("damaged/checkpoints/checkpoint_manager_snapshot.json")
    whole = path.read_bytes()
    written = [b"", whole.replace(b"step-00000006", b"step-00000099"), whole]
    path.write_bytes(whole[:100])

    def repair_then_write(run_uri, known=()):
        repair_checkpoint_index(run_uri, known)
        if written:
            path.write_bytes(written.pop(0))

    monkeypatch.setattr(train, "repair_checkpoint_index", repair_then_write)
    run = main(make_config("damaged").model_copy(update={"run_name": "one"}))
    assert caplog.text.count("by a run that is ending: trying again") == 2
    assert "step-00000008 is damaged and left out" in caplog.text
    assert "training goes on from checkpoint step-00000006" in caplog.text
    assert losses(run) == {step: losses(one_worker)[step] for step in (7, 8)}
    expected = weights("one")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights("damaged").items())


def test_a_changed_config_goes_on_where_it_is_allowed(one_worker, make_config):
    shutil.copytree("one", "changed")
    changed = make_config("one", num_steps=STEPS + 1, caption_dropout=0.5).model_copy(update={"output_uri": "changed"})
    with pytest.raises(UserError, match=r"train\.caption_dropout: 0\.1 -> 0\.5: .*--allow-config-change"):
        main(changed)
    job = start_or_resume(changed.model_copy(update={"allow_config_change": True}))
    assert (job.run.mlflow_run_id, job.run.num_steps) == (one_worker.mlflow_run_id, STEPS)
    assert job.recipe.resolved_config.train.caption_dropout == 0.5
