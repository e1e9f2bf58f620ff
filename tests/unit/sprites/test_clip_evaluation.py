"""A motion module is judged by the ground truth of the clips that its prompts ask for."""

import logging

import numpy as np
import pytest
import torch
import yaml

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.sprites.clip_evaluation import clip_scenes, figures, main, table
from animatediff.sprites.scenes.drawing import draw, render
from animatediff.sprites.scenes.world import BACKGROUNDS, NEW_COLOUR, pose
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.reading.tensors import save_tensors
from tests.support_base import build_base


def rendered(scenes, **options):
    return [render(scene, num_frames=16, height=64, width=64, **options) for scene in scenes]


def test_real_renders_have_perfect_figures():
    scenes = clip_scenes(9)
    found = figures(rendered(scenes), scenes, style="plain")
    assert (found.shape, found.colour, found.style, found.keeps_itself, found.follows) == (1, 1, 1, 1, 1)
    assert 18 < found.displacement < 40
    assert found.jitter < 1
    lines = table({"real renders": found}).splitlines()
    assert lines[0].split()[:3] == ["shape", "colour", "style"]
    assert lines[1].startswith("real renders  100.0%")


def test_each_fault_lowers_its_own_figure():
    scenes = clip_scenes(9)
    clips = rendered(scenes)
    some, cel = scenes[:3], rendered(scenes[:3], style="cel")
    assert [figures(cel, some, style=style).style for style in ("cel", "plain")] == [1, 0]
    frozen = figures([clip[[0] * 16] for clip in clips], scenes, style="plain")
    assert (frozen.keeps_itself, frozen.displacement, frozen.jitter) == (1, 0, 0)
    assert frozen.follows == pytest.approx(1 / 9)  # the one that is to stand still
    others = scenes[1:] + scenes[:1]
    swapped = figures(clips, others, style="plain")
    assert swapped.shape < 0.5
    assert swapped.keeps_itself == 1


def test_every_entry_of_a_catalog_is_measured(tmp_path, caplog, monkeypatch):
    base = build_base(tmp_path / "base")
    unet = load_unet(str(base))
    config = MotionConfig.for_version("v3").model_copy(update={"norm_num_groups": 8})
    motion_modules.write(str(tmp_path / "motion.safetensors"), MotionModules.for_base(unet, config))
    save_tensors(str(tmp_path / "brown.safetensors"), {NEW_COLOUR[0]: torch.zeros(1, 32)}, {})
    entries = [
        {"name": "plain-one", "prompts": ["unused"]},
        {"name": "new-cel", "embeddings": [{"path": str(tmp_path / "brown.safetensors")}], "prompts": [NEW_COLOUR[0]]},
    ]
    catalog = {
        "base": str(base),
        "motion_module": str(tmp_path / "motion.safetensors"),
        "num_inference_steps": 1,
        "entries": entries,
    }
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    asked = []
    render_item = Animator.render

    def spy(animator, item):
        asked.append((item.prompt, item.num_frames))
        return render_item(animator, item)

    monkeypatch.setattr(Animator, "render", spy)
    with caplog.at_level(logging.INFO):
        main(tmp_path / "catalog.yaml", num_clips=3, num_personalised=2)
    assert [line.split("  ")[0] for line in caplog.messages[-1].splitlines()[1:]] == [
        "real renders",
        "plain-one, stills",
        "plain-one, shared noise",
        "plain-one, independent noise",
        "plain-one",
        "new-cel, stills",
        "new-cel",
    ]
    assert [num_frames for _, num_frames in asked] == [1] * 6 + [16] * 6 + [1] * 2 + [16] * 2
    assert [NEW_COLOUR[0] in prompt for prompt, _ in asked] == [False] * 12 + [True] * 4


def test_a_new_colour_counts_in_the_place_of_the_scenes_own():
    scenes = clip_scenes(3)
    clips = []
    for scene in scenes:
        poses = [pose(scene, time) for time in np.linspace(0, 1, 16).tolist()]
        background = BACKGROUNDS[scene.background]
        clips.append(np.stack([draw(scene.shape, NEW_COLOUR[1], background, at, 64, 64) for at in poses]))
    assert figures(clips, scenes, style="plain", colour=NEW_COLOUR[0]).colour == 1
    assert figures(clips, scenes, style="plain").colour == 0
