"""Samples of a training; those of a SparseCtrl encoder begin with a held-out clip's first frame."""

import io
import shutil

import numpy as np
import torch
from PIL import Image

from animatediff.data.manifest import read_manifest
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.training.config import TrainingConfig
from animatediff.training.recipes.table import recipe_of
from animatediff.training.trainer import Trainer
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines.settings import SampleConfig
from pipelines.stages.train.sample import Renderer
from tests.support_base import build_base
from tests.support_controls import build_controls
from tests.unit.data.loading.test_loader import write_dataset


def test_a_sparse_control_encoder_is_shown_the_first_frame_of_a_held_out_clip(tmp_path):
    base = build_base(tmp_path / "base")
    motion_modules.write(
        str(tmp_path / "motion.safetensors"), MotionModules.for_base(load_unet(str(base)), MotionConfig())
    )
    config = TrainingConfig(
        recipe="sparse_control",
        dataset_uri=write_dataset(tmp_path / "data", shards=(8,), shapes=((2, 4, 4, 4),)),
        base=str(base),
        model={"motion_module": str(tmp_path / "motion.safetensors")},
        train={"num_steps": 1, "holdout": 0.5},
    )
    sample = SampleConfig(prompts=("a", "b"), num_inference_steps=2)
    renderer = Renderer.plan(sample, recipe_of(config), read_manifest(config.dataset_uri), on_gpu=False)
    fresh = str(tmp_path / "fresh.safetensors")
    Trainer(config, device=torch.device("cpu")).write_weights(fresh)
    trained = build_controls(tmp_path / "controls", base)["rgb"]
    before, after = renderer.render(fresh), renderer.render(trained)
    assert list(before) == list(after) == ["picture.png", "0.mp4", "0.gif", "1.mp4", "1.gif"]
    assert before["picture.png"] == after["picture.png"]
    assert np.asarray(Image.open(io.BytesIO(before["picture.png"]))).shape == (*renderer.size[1:], 3)
    assert all(before[name] != after[name] for name in ("0.mp4", "1.mp4"))  # a fresh one changes nothing yet


def test_a_training_on_checkpoints_that_predict_something_else_than_the_base_is_shown_on_one(tmp_path, monkeypatch):
    base = build_base(tmp_path / "base")
    shutil.copytree(base, tmp_path / "v")
    (tmp_path / "v" / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    data, loaded = write_dataset(tmp_path / "data", shards=(8,), shapes=((2, 4, 4, 4),)), []
    monkeypatch.setattr(Animator, "load", lambda self, entry: loaded.append(entry.checkpoint))
    monkeypatch.setattr(Animator, "render", lambda self, item: np.zeros((2, 8, 8, 3), np.uint8))
    for checkpoints in ((str(tmp_path / "v"),), (str(base),), ()):
        config = TrainingConfig(dataset_uri=data, base=str(base), base_checkpoints=checkpoints)
        trained = str(tmp_path / "trained.safetensors")
        motion_modules.write(trained, MotionModules.for_base(load_unet(str(base)), MotionConfig()))
        renderer = Renderer.plan(SampleConfig(prompts=("a",)), recipe_of(config), read_manifest(data), on_gpu=False)
        renderer.render(trained)
    assert loaded == [str(tmp_path / "v"), None, None]
