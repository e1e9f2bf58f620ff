"""`kill -9` of the train job and its processes, then the same command again: the same batches, losses and weights."""

import json
import random
import time

import pytest
from mlflow import MlflowClient

from pipelines.settings import TrainJobConfig
from tests.integration.processes import Job
from tests.support import write_yaml
from tests.support_sdxl import build_sdxl
from tests.unit.data.loading.test_loader import write_dataset

pytestmark = pytest.mark.ray
KINDS = ("training worker", "driver", "worker")


def kill_while_it_runs(job, output, num_kills, rng, deadline_s):
    """Kill processes, the kinds in turn, at random times after a checkpoint that is new since the last kill."""
    done, seen, deadline = [], set(), time.monotonic() + deadline_s
    job.start()
    while len(done) < num_kills:
        assert time.monotonic() < deadline, done
        if not job.is_running():
            assert not (output / "motion_module.safetensors").exists(), f"it was done after {done}: take more steps"
            job.start()
        kind = KINDS[len(done) % len(KINDS)]
        checkpoints = set((output / "checkpoints").glob("step-*/state.json"))
        if checkpoints - seen and job.of_kind(kind):
            time.sleep(rng.uniform(0, 1))
            if job.kill_one(kind):
                done.append(kind)
                seen |= checkpoints
        time.sleep(0.02)
    job.end()


def losses(output, tracking_uri):
    """The loss that each step had, all that were logged of it."""
    run_id = json.loads((output / "run.json").read_text())["mlflow_run_id"]
    found = {}
    for metric in MlflowClient(tracking_uri).get_metric_history(run_id, "loss"):
        found.setdefault(metric.step, set()).add(metric.value)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_twenty_five_kills_in_one_run(base, tmp_path, monkeypatch, kind):
    base = base if kind == "sd1" else str(build_sdxl(tmp_path / "base"))
    num_kills, num_steps = 25, 120
    tracking_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    write_dataset(tmp_path / "dataset", shards=(9, 8), shapes=((4, 4, 16, 16),))
    jobs = {}
    with (tmp_path / "log").open("w") as log:
        for name in ("straight", "killed"):
            config = TrainJobConfig(
                run_name=name,
                dataset_uri=str(tmp_path / "dataset"),
                base=base,
                output_uri=str(tmp_path / name),
                train={"num_steps": num_steps, "batch_size": 4, "log_every": 1, "checkpoint_every": 2},
                scaling={"num_workers": 1, "cpus_per_worker": 1, "max_failures": 2},
                sample={"num_inference_steps": 2},
            )
            path = write_yaml(tmp_path / f"{name}.yaml", config.model_dump(mode="json"))
            with Job("train", path, log) as job:
                if name == "killed":
                    kill_while_it_runs(job, tmp_path / name, num_kills, random.Random(0), deadline_s=2400)
                job.start()
                assert job.code() == 0, (tmp_path / "log").read_text()[-3000:]
                jobs[name] = job
    straight, killed = (losses(tmp_path / name, tracking_uri) for name in ("straight", "killed"))
    assert sorted(straight) == list(range(1, num_steps + 1))
    # A step that was done twice has seen the same clips and noise both times.
    assert killed == straight
    weights = "motion_module.safetensors"
    assert (tmp_path / "killed" / weights).read_bytes() == (tmp_path / "straight" / weights).read_bytes()
    print(f"{num_kills} kills, {jobs['killed'].runs} runs of the command")  # noqa: T201
