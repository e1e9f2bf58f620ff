"""A motion module is judged by the ground truth of the clips that its prompts ask for."""

import logging

import pytest
import yaml

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.sprites.base import build_base
from animatediff.sprites.clip_evaluation import clip_scenes, figures, main, table
from animatediff.sprites.drawing import render
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet


def rendered(scenes, **options):
    return [render(scene, num_frames=16, height=64, width=64, **options) for scene in scenes]


def test_real_renders_have_perfect_figures():
    scenes = clip_scenes(18)
    found = figures(rendered(scenes), scenes, style="plain")
    assert (found.shape, found.colour, found.style, found.keeps_itself, found.follows) == (1, 1, 1, 1, 1)
    assert 18 < found.displacement < 40
    assert found.jitter < 1


def test_each_fault_lowers_its_own_figure():
    scenes = clip_scenes(9)
    clips = rendered(scenes)
    cel = figures(rendered(scenes, style="cel"), scenes, style="cel")
    assert (cel.style, figures(rendered(scenes, style="cel"), scenes, style="plain").style) == (1, 0)
    frozen = figures([clip[[0] * 16] for clip in clips], scenes, style="plain")
    assert (frozen.keeps_itself, frozen.displacement, frozen.jitter) == (1, 0, 0)
    assert frozen.follows == pytest.approx(1 / 9)  # the one that is to stand still
    others = scenes[1:] + scenes[:1]
    swapped = figures(clips, others, style="plain")
    assert swapped.shape < 0.5
    assert swapped.keeps_itself == 1


def test_the_table_has_a_line_a_model():
    scenes = clip_scenes(9)
    lines = table({"real renders": figures(rendered(scenes), scenes, style="plain")}).splitlines()
    assert lines[0].split()[:3] == ["shape", "colour", "style"]
    assert lines[1].startswith("real renders  100.0%")


def test_every_entry_of_a_catalog_is_measured(tmp_path, caplog):
    base = build_base(tmp_path / "base")
    unet = load_unet(str(base))
    config = MotionConfig.for_version("v3").model_copy(update={"norm_num_groups": 8})
    motion_modules.write(str(tmp_path / "motion.safetensors"), MotionModules.for_base(unet, config))
    entries = [{"name": name, "prompts": ["unused"]} for name in ("plain-one", "other-cel")]
    catalog = {
        "base": str(base),
        "motion_module": str(tmp_path / "motion.safetensors"),
        "num_inference_steps": 1,
        "entries": entries,
    }
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    with caplog.at_level(logging.INFO):
        main(tmp_path / "catalog.yaml", num_clips=2, baselines=False)
    assert [line.split()[0] for line in caplog.messages[-1].splitlines()[1:]] == ["plain-one", "other-cel"]
