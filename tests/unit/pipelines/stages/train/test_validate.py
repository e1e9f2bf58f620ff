"""What becomes of a checkpoint on the way, without Ray's tasks around it."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from ray import cloudpickle

from animatediff.data.manifest import read_manifest
from animatediff.errors import UserError
from animatediff.training.config import TrainingConfig
from animatediff.training.recipes.table import recipe_of
from animatediff.training.trainer import Trainer
from animatediff.training.validation import validation_loss
from pipelines.settings import SampleConfig
from pipelines.stages.train import validate
from pipelines.stages.train.sample import Renderer
from pipelines.stages.train.validate import Validator
from tests.support_base import build_base
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path):
    base = str(build_base(tmp_path / "base"))
    data = write_dataset(tmp_path / "data", shards=(8,), shapes=((2, 4, 4, 4),))
    model, train = {"lora_rank": 2}, {"num_steps": 1, "holdout": 0.5}
    return TrainingConfig(recipe="domain_adapter", dataset_uri=data, base=base, model=model, train=train)


@pytest.fixture
def checkpoint(config, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    Trainer(config, device=CPU).save(tmp_path / "checkpoint", step=3)

    @contextmanager
    def as_directory():
        yield str(tmp_path / "checkpoint")

    return SimpleNamespace(as_directory=as_directory)


@pytest.mark.parametrize("fails", [False, True])
def test_a_picture_that_cannot_be_rendered_costs_no_loss(config, checkpoint, tmp_path, monkeypatch, fails):
    def render(renderer, weights_uri):
        if fails:
            raise UserError("NaN pixels")
        return {"0.png": b"picture"}

    posted = []
    monkeypatch.setattr(Renderer, "render", render)
    monkeypatch.setattr(validate.ray, "get", lambda posted: posted)
    worker_mailbox = SimpleNamespace(put=SimpleNamespace(remote=posted.append))
    renderer = Renderer.plan(
        SampleConfig(num_loss_clips=2), recipe_of(config), read_manifest(config.dataset_uri), on_gpu=False
    )
    run_uri = str(tmp_path / "run")
    # As Ray sends it to the task.
    renderer = cloudpickle.loads(cloudpickle.dumps(renderer))
    found = Validator(renderer, run_uri, worker_mailbox, has_idle_cpus=False)(checkpoint, step=3)
    weights = str(tmp_path / "checkpoint" / "domain_adapter.safetensors")
    loss = validation_loss(config, weights, device=CPU, num_clips=2).loss
    assert found == {"val_loss": loss}
    (entry,) = posted
    assert (entry["validated"], entry["val_loss"]) == (3, loss)
    assert entry["errors"] == (["NaN pixels"] if fails else [])
    assert entry["files"] == ([] if fails else [f"{run_uri}/validation/step-00000003/0.png"])
    assert (tmp_path / "run" / "best_domain_adapter.safetensors").read_bytes()
