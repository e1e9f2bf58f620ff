"""An SDXL base through the jobs on a real local Ray cluster."""

import os
import threading
import time

import pytest
import torch

from animatediff.data.loading.loader import ClipLoader
from animatediff.data.loading.order import Batching
from animatediff.training.config import TrainingConfig
from animatediff.training.trainer import Trainer
from animatediff.weights import motion_modules
from animatediff.weights.identify.weights_file import identify_uri
from pipelines import ingest, train
from pipelines.settings import IngestConfig, TrainJobConfig
from tests.integration.processes import below, kill, of_kind
from tests.support import mp4
from tests.support_sdxl import build_sdxl

pytestmark = pytest.mark.ray
STEPS = 12


def test_videos_become_a_motion_module_also_where_the_training_is_killed(cluster, tmp_path, monkeypatch):
    """The worker is killed after its first checkpoint; what comes out has the bits of a run in this process."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    base, source, dataset = str(build_sdxl(tmp_path / "base")), tmp_path / "source", str(tmp_path / "dataset")
    source.mkdir()
    for name, (height, width) in {"wide": (72, 128), "tall": (128, 72), "square": (96, 96)}.items():
        (source / f"{name}.mp4").write_bytes(mp4(20, height=height, width=width))
        (source / f"{name}.txt").write_text(f"a bar in a {name} picture")
    clips = {"num_frames": 4, "height": 64, "width": 64, "sizes": [[64, 128]]}
    manifest = ingest.main(
        IngestConfig(source={"uri": str(source)}, output_uri=dataset, base=base, clips=clips, num_encoders=1)
    )
    assert (manifest.scaling_factor, manifest.num_clips) == (0.13025, 3)
    loader = ClipLoader(dataset, manifest, Batching(batch_size=1, seed=0))
    batches = [loader.load(number) for number in range(3)]
    assert {batch.clip_ids[0]: batch.source_crops[0] for batch in batches} == {
        "square.mp4-0": (96, 96, 0, 0),
        "tall.mp4-0": (128, 72, 25, 0),
        "wide.mp4-0": (72, 128, 4, 0),
    }

    recipe = {
        "dataset_uri": dataset,
        "base": base,
        "optim": {"lr": 3e-3},
        "compute": {"precision": "float32"},  # whatever the workers' processor is
        "train": {"num_steps": STEPS, "batch_size": 2, "checkpoint_every": 2, "log_every": 1},
    }
    config = TrainJobConfig(
        run_name="sdxl",
        output_uri=str(tmp_path / "train"),
        scaling={"num_workers": 1, "cpus_per_worker": 0.5, "max_failures": 1},
        sample={"num_inference_steps": 2},
        **recipe,
    )
    killed = []
    killer = threading.Thread(target=kill_after_a_checkpoint, args=(tmp_path / "train", killed), daemon=True)
    killer.start()
    run = train.main(config)
    killer.join()
    assert len(killed) == 1
    assert run.num_steps == STEPS
    assert [file.suffix for file in (tmp_path / "train" / "sample").iterdir()].count(".mp4") == 1
    uri = str(tmp_path / "train" / "motion_module.safetensors")
    file = motion_modules.open_file(uri)
    assert (file.layout, file.schedule["beta_schedule"], file.schedule["beta_end"]) == (
        "official",
        "scaled_linear",
        0.02,
    )
    assert (identify_uri(uri).family, identify_uri(uri).version) == ("motion_module", "sdxl")

    trainer = Trainer(TrainingConfig(**recipe), device=torch.device("cpu"))
    assert len(list(trainer.steps(0))) == STEPS
    expected = trainer.model.trainable.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in file.build().state_dict().items())


def kill_after_a_checkpoint(folder, killed):
    snapshot, deadline = folder / "checkpoints/checkpoint_manager_snapshot.json", time.monotonic() + 240
    while not (snapshot.exists() and "step-" in snapshot.read_text()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    killed += of_kind(below(os.getpid()), "training worker", os.getpid())
    kill(killed)
