"""A base is judged by the ground truth of what its prompts say."""

from dataclasses import replace

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from animatediff.sprites.evaluation import contact_sheet, draw_prompts, shares_right, still_scenes
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import HELD_OUT
from tests.support_base import build_base


def rendered(scenes):
    return np.concatenate([render(scene, num_frames=1, height=64, width=64) for scene in scenes])


def test_real_renders_are_all_right():
    scenes = still_scenes(40, held_out=False)
    assert shares_right(rendered(scenes), scenes) == {"shape": 1, "colour": 1, "size": 1, "background": 1}


def test_what_is_wrong_counts_as_wrong():
    scenes = still_scenes(10, held_out=False)
    pictures = rendered(scenes)
    pictures[:5] = rendered(
        [replace(scene, size="small" if scene.size == "large" else "large") for scene in scenes[:5]]
    )
    pictures[5:7] = 0
    assert shares_right(pictures, scenes) == {"shape": 0.8, "colour": 0.8, "size": 0.3, "background": 0.8}


@pytest.mark.parametrize("held_out", [True, False])
def test_prompts_are_of_seen_or_of_held_out_pairs(held_out):
    scenes = still_scenes(30, held_out=held_out)
    assert {(scene.shape, scene.colour) in HELD_OUT for scene in scenes} == {held_out}


def test_each_prompt_has_its_own_seed(tmp_path, monkeypatch):
    pipeline = StableDiffusionPipeline.from_pretrained(build_base(tmp_path / "base"))
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr("animatediff.sprites.evaluation.NUM_STEPS", 2)
    pictures = draw_prompts(pipeline, ["a red star"] * 2)
    assert (pictures.shape, pictures.dtype) == ((2, 64, 64, 3), np.uint8)
    assert (pictures[0] != pictures[1]).any()
    assert (draw_prompts(pipeline, ["a red star"])[0] == pictures[0]).mean() > 0.99


def test_a_contact_sheet_has_all_pictures():
    pictures = rendered(still_scenes(10, held_out=False))
    sheet = np.asarray(
        contact_sheet(pictures, ["a prompt of some length that has to be broken"] * 10, columns=4, zoom=1)
    )
    assert sheet.shape[1] >= 4 * 64
    np.testing.assert_array_equal(sheet[:64, :64], pictures[0])
    assert (sheet != 255).any(axis=-1)[-20:].any()
