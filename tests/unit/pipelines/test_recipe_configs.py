"""The shipped recipes load, each is what its name says, and they train what is published."""

from pathlib import Path

import pytest

import pipelines
from animatediff.config import load
from animatediff.diffusion.noise_schedule import NoiseScheduleOverrides
from animatediff.training.recipes.table import RECIPES, recipe_of
from pipelines.settings import TrainJobConfig

FOLDER = Path(pipelines.__file__).parent / "configs" / "recipes"
RESULTS = {
    "domain_adapter": "domain_adapter",
    "motion_module": "motion_module",
    "motion_lora": "motion_lora",
    "finetune": "motion_module",
}


def read(name):
    return load(TrainJobConfig, str(FOLDER / f"{name}.yaml"))


def test_there_is_one_config_a_recipe():
    assert {path.stem for path in FOLDER.iterdir()} == RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_loads_and_is_the_recipe_that_its_name_says(name):
    assert read(name).recipe == name


@pytest.mark.parametrize("name", RESULTS)
def test_what_comes_out_and_how_it_is_trained_is_as_published(name):
    config = read(name)
    assert recipe_of(config).weights_file == f"{RESULTS[name]}.safetensors"
    assert config.train.caption_dropout == 0.1
    # What starts from a motion module trains with the schedule that its file names.
    given = {"domain_adapter": "scaled_linear", "motion_module": "linear"}.get(name)
    assert config.schedule == NoiseScheduleOverrides(beta_schedule=given)


def test_a_sparse_control_is_trained_beside_the_motion_module_and_the_adapter_that_their_recipes_make():
    motion, config = read("motion_module"), read("sparse_control")
    assert config.model.motion_module == f"{motion.output_uri}/{recipe_of(motion).weights_file}"
    assert config.model.domain_adapter == motion.model.domain_adapter
    assert recipe_of(config).weights_file == "sparse_control.safetensors"


def test_ranks_and_steps_are_the_published_ones():
    assert read("domain_adapter").model.lora_rank == 128
    assert (read("motion_lora").model.lora_rank, read("motion_lora").train.num_steps) == (64, 2000)


def test_the_motion_module_is_trained_beside_the_adapter_that_its_recipe_makes():
    adapter, config = read("domain_adapter"), read("motion_module")
    assert config.model.domain_adapter.path == f"{adapter.output_uri}/{recipe_of(adapter).weights_file}"
    assert config.dataset_uri == adapter.dataset_uri
