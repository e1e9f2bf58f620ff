"""A worker goes from one base to another and back: the same bytes, and never both in memory."""

import weakref

import numpy as np
import pytest
import torch

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import ModelFiles
from animatediff.rendering.catalog.item import Item
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines.stages.animate.worker import RenderSlices, RenderSpec
from tests.support_base import build_base
from tests.support_sdxl import build_sdxl, write_motion
from tests.unit.pipelines.stages.animate.stubs import assignment_of


@pytest.fixture
def worker(tmp_path):
    threads = torch.get_num_threads()
    yield RenderSlices(None, RenderSpec(str(tmp_path), "cpu", 8, ("mp4",), 18, None, None))
    torch.set_num_threads(threads)


def test_a_base_is_let_go_before_the_next_is_read(worker, tmp_path, monkeypatch):
    small, xl = build_base(tmp_path / "small"), build_sdxl(tmp_path / "xl")
    motion = MotionModules.for_base(load_unet(str(small)), MotionConfig())
    motion_modules.write(str(tmp_path / "small.safetensors"), motion)
    models = {
        "small": ModelFiles(base=str(small), motion_module=str(tmp_path / "small.safetensors")),
        "xl": ModelFiles(base=str(xl), motion_module=write_motion(tmp_path / "xl.safetensors", xl)),
    }
    resident, real = [], Animator.for_model

    def for_model(model, *, device):
        assert [unet() for unet in resident if unet() is not None] == []
        animator = real(model, device=device)
        resident.append(weakref.ref(animator._unet))
        return animator

    monkeypatch.setattr(Animator, "for_model", for_model)
    item = Item(
        **{"digest": "d", "entry": "e", "model": "m", "prompt": "a red circle", "seed": 0},
        **{"width": 32, "height": 16, "num_frames": 3, "num_inference_steps": 2},
    )
    frames = []
    for name in ("small", "xl", "small", "xl"):
        animator = worker._load(assignment_of([item])._replace(model=models[name]))
        frames.append(animator.render(item))
        animator.prefetch(models[name].model_copy(update={"vae": str(small / "vae")}))  # which another base ends
        del animator
    assert len(resident) == 4
    np.testing.assert_array_equal(frames[2], frames[0])
    np.testing.assert_array_equal(frames[3], frames[1])
    assert (frames[0] != frames[1]).any()
