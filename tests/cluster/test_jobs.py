"""The three jobs on several hosts, while one is cut off, one is lost for good, and what they use is slow or away.

The short form is a few minutes long; `-m slow` has the sizes of a night's rehearsal.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.results.ledger import read_results
from animatediff.sprites.videos import break_videos, write_videos
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from tests.cluster.platform import REPOSITORY, wait_until
from tests.integration.conftest import hashes
from tests.support_base import build_base

_JOB_S = 1800


class Size(NamedTuple):
    """How much work, and how long the cut lasts; Ray counts a host as dead after some 20 s."""

    num_videos: int
    num_steps: int
    num_prompts: int
    cut_s: float


SIZES = [
    pytest.param(Size(num_videos=48, num_steps=40, num_prompts=6, cut_s=40), id="short"),
    pytest.param(Size(num_videos=300, num_steps=120, num_prompts=20, cut_s=60), id="long", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def base_uri(platform, base):
    return platform.upload(base, "base")


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


def locally(job, config, folder):
    """Run a job on this machine, undisturbed; its config's file is beside its output."""
    path = folder / f"{job}.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, f"pipelines/{job}.py", "--config", str(path)]
    env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=_JOB_S)
    assert done.returncode == 0, done.stderr


def submit(platform, job, config):
    return platform.submit(job, platform.write(f"configs/{job}.yaml", yaml.safe_dump(config).encode()))


def disturb(platform, job, progress, cut_s):
    """Cut one host off once a fifth of the work is done, and after that lose another for good; the job's exit code."""
    deadline = time.monotonic() + _JOB_S

    def wait_for(share):
        while progress() < share:
            assert job.poll() is None, f"it was done at {progress():.0%}: more work is needed"
            assert time.monotonic() < deadline, platform.log()[-3000:]
            time.sleep(0.5)

    wait_for(0.2)
    host = platform.network.hosts["one"]
    host.cut()
    time.sleep(cut_s)
    host.restore()
    wait_until(lambda: platform.num_hosts() == 3, "the host that was cut off does not come back")
    wait_for(0.5)
    platform.network.hosts["two"].kill()
    return job.wait(timeout=deadline - time.monotonic())


@pytest.fixture(scope="module")
def videos(platform, size, tmp_path_factory):
    """A folder of videos with a table of captions, here and in the store; three are broken."""
    folder = tmp_path_factory.mktemp("videos")
    table = write_videos(folder, num_videos=size.num_videos, height=64, width=64, num_frames=24)
    break_videos(folder)
    return table, f"{platform.upload(folder, f'videos-{size.num_videos}')}/{table.name}"


@pytest.fixture(scope="module")
def local_dataset(videos, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    locally("ingest", ingest_config(videos[0], folder / "dataset", base), folder)
    return folder / "dataset"


def ingest_config(source, output, base):
    clips = {"height": 32, "width": 32, "stride": 1, "windows_per_video": 2, "windows": "random"}
    return {
        "source": {"uri": str(source)},
        "output_uri": str(output),
        "base": str(base),
        "clips": clips,
        "clips_per_unit": 4,
    }


def test_ingest_gives_the_bytes_of_a_local_run(whole, size, videos, base_uri, local_dataset):
    output = f"dataset-{size.num_videos}"
    num_units = size.num_videos * 2 / 4
    job = submit(whole, "ingest", ingest_config(videos[1], f"s3://data/{output}", base_uri))
    whole.network.hosts["store"].slow(4000)
    code = disturb(whole, job, lambda: len(whole.keys(f"{output}/parts/")) / num_units, size.cut_s)
    whole.network.hosts["store"].hasten()
    assert code == 0, whole.log()[-3000:]
    expected = {
        name: digest
        for name, digest in hashes(local_dataset).items()
        if name.startswith("bucket=") or name == "manifest.json"
    }
    assert len(expected) > 1
    for name in expected:
        assert whole.read(f"{output}/{name}") == (local_dataset / name).read_bytes(), name


def losses(client, output):
    run_id = json.loads(output)["mlflow_run_id"]
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss")]


def test_training_takes_every_step_in_one_run(whole, size, base_uri, base, local_dataset, tmp_path):
    def config(base, dataset, output, num_workers):
        return {
            "run_name": Path(output).name,
            "dataset_uri": str(dataset),
            "base": str(base),
            "output_uri": str(output),
            "train": {"num_steps": size.num_steps, "batch_size": 4, "log_every": 1, "checkpoint_every": 2},
            # One fits on a host, and goes on alone where there is only one left.
            "scaling": {"num_workers": num_workers, "cpus_per_worker": 1.5, "max_failures": 6},
            "sample": {"num_inference_steps": 2},
        }

    locally("train", config(base, local_dataset, tmp_path / "run", 1), tmp_path)
    expected = dict(losses(MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), (tmp_path / "run/run.json").read_text()))
    assert sorted(expected) == list(range(1, size.num_steps + 1))

    output = f"run-{size.num_steps}"
    dataset_uri = whole.upload(local_dataset, f"training-{size.num_steps}")
    job = submit(whole, "train", config(base_uri, dataset_uri, f"s3://data/{output}", [1, 2]))
    server = whole.mlflow
    answers = {"stopped": False}

    def progress():
        steps = {key.split("/")[2] for key in whole.keys(f"{output}/checkpoints/step-") if key.endswith("state.json")}
        done = max((int(step.removeprefix("step-")) for step in steps), default=0) / size.num_steps
        if done and not answers["stopped"]:  # the tracking server is away for as long as the host is
            os.killpg(server.pid, signal.SIGKILL)
            answers["stopped"] = True
        elif done >= 0.5 and server.poll() is not None and whole.mlflow is server:
            whole.start_mlflow()
        return done

    code = disturb(whole, job, progress, size.cut_s)
    assert code == 0, whole.log()[-3000:]
    client = MlflowClient(whole.mlflow_uri)
    found = losses(client, whole.read(f"{output}/run.json"))
    assert [step for step, _ in found] == sorted(step for step, _ in found)
    # A step that was done twice has seen the same clips and the same noise both times.
    for step, loss in found:
        assert loss == pytest.approx(expected[step], rel=1e-4), step
    assert {step for step, _ in found} == expected.keys()
    runs = client.search_runs(["1"], f"attributes.run_name = '{output}'")
    assert [run.info.status for run in runs] == ["FINISHED"]


def frames_of(clip):
    with av.open(io.BytesIO(clip)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_every_item_is_rendered_once(whole, size, base_uri, base, tmp_path, monkeypatch):
    motion = MotionModules.for_base(load_unet(str(base)), MotionConfig())
    motion_modules.write(str(tmp_path / "motion.safetensors"), motion)
    motion_uri = whole.write("motion.safetensors", (tmp_path / "motion.safetensors").read_bytes())
    other = build_base(tmp_path / "other", seed=1)
    other_uri = whole.upload(other, "other")

    def catalog(base, motion, other):
        return {
            "base": str(base),
            "motion_module": str(motion),
            **{"width": 64, "height": 64, "num_inference_steps": 12},
            "prompts": [f"a red circle, number {i}" for i in range(size.num_prompts)],
            "entries": [{"name": "bare"}, {"name": "other", "checkpoint": str(other)}],
        }

    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog(base, tmp_path / "motion.safetensors", other)))
    local = {"catalog_uri": str(tmp_path / "catalog.yaml"), "output_uri": str(tmp_path / "clips"), "formats": ["mp4"]}
    locally("animate", local, tmp_path)

    output, num_items = f"clips-{size.num_prompts}", 2 * size.num_prompts
    catalog_uri = whole.write("catalog.yaml", yaml.safe_dump(catalog(base_uri, motion_uri, other_uri)).encode())
    config = {"catalog_uri": catalog_uri, "output_uri": f"s3://data/{output}", "formats": ["mp4"], "num_actors": 2}
    job = submit(whole, "animate", config)
    code = disturb(whole, job, lambda: len(whole.keys(f"{output}/items/")) / num_items, size.cut_s)
    assert code == 0, whole.log()[-3000:]

    for name, value in whole.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    found = {(result.entry, result.prompt): result for result in read_results(f"s3://data/{output}")}
    expected = {(result.entry, result.prompt): result for result in read_results(str(tmp_path / "clips"))}
    assert len(found) == len(expected) == num_items
    assert {result.status for result in found.values()} == {"ok"}
    # The files name the weights by their URIs, so that their bytes differ; the frames must not.
    for name, result in found.items():
        here = (tmp_path / "clips" / expected[name].files["mp4"]).read_bytes()
        assert np.array_equal(frames_of(whole.read(f"{output}/{result.files['mp4']}")), frames_of(here)), name
    assert len(whole.keys(f"{output}/items/")) == num_items
