"""A motion module that is distilled already teaches no few steps, and loses its own to other recipes."""

import pytest
import torch

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.training.config import TrainingConfig
from animatediff.training.trainer import Trainer
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.layouts.few_step import FewStepSampling
from pipelines.settings import TrainJobConfig
from pipelines.stages.train.dry_run import estimate
from pipelines.stages.train.run import check_job, start_or_resume
from tests.support_base import build_base
from tests.support_data import make_dataset

FEW = FewStepSampling(sampler="euler", timestep_spacing="trailing", num_inference_steps=4)
COMPLETE = {"prediction_type": "epsilon", "zero_terminal_snr": False, "num_train_timesteps": 1000} | {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
}
REFUSED = (
    r"^model.motion_module .*few\S* is itself distilled to few steps \(sampler euler, .*num_inference_steps 4.*: name "
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, a dataset, a motion module, one that was distilled from it, and a run's folder that ended with one."""
    folder = tmp_path_factory.mktemp("world")
    motion = MotionModules.for_base(load_unet(str(build_base(folder / "base"))), MotionConfig())
    make_dataset(str(folder / "dataset"), 6, rejects=lambda number: False)
    motion_modules.write(str(folder / "plain.safetensors"), motion)
    for name in ("few.safetensors", "few_run/motion_module.safetensors"):
        motion_modules.write(str(folder / name), motion, few_step=FEW)
    return folder


@pytest.fixture
def make(world, tmp_path):
    def make_config(recipe, start, **fields):
        content = {
            "run_name": "run",
            "recipe": recipe,
            "dataset_uri": str(world / "dataset"),
            "base": str(world / "base"),
            "output_uri": str(tmp_path / "run"),
            "model": {"motion_module": str(world / start)} | fields.pop("model", {}),
            "train": {"num_steps": 2, "batch_size": 2} | fields.pop("train", {}),
        }
        return TrainJobConfig.model_validate(content | fields)

    return make_config


def told(caplog):
    return [record.getMessage() for record in caplog.records if ".recipes." in record.name]


@pytest.mark.parametrize("start", ["few.safetensors", "few_run"])
@pytest.mark.parametrize("fields", [{}, {"model": {"lora_rank": 2}}, {"schedule": COMPLETE}], ids=str)
def test_it_does_not_teach_few_steps(make, start, fields):
    config = make("distill", start, **fields)
    with pytest.raises(UserError, match=REFUSED):
        estimate(config)
    with pytest.raises(UserError, match=REFUSED):
        start_or_resume(config)
    of_library = TrainingConfig(**{name: getattr(config, name) for name in TrainingConfig.model_fields})
    with pytest.raises(UserError, match=REFUSED):
        Trainer(of_library, device=torch.device("cpu"))


def test_a_run_from_one_that_is_not_goes_on_with_what_is_distilled_in_its_folder(make, tmp_path):
    job = start_or_resume(make("distill", "plain.safetensors"))
    motion_modules.write(job.weights_uri, motion_modules.read(job.recipe.config.model.motion_module), few_step=FEW)
    longer = make("distill", "plain.safetensors", train={"num_steps": 9})
    assert start_or_resume(longer).recipe.config.train.num_steps == 9


@pytest.mark.parametrize("recipe", ["finetune", "motion_module"])
def test_other_recipes_warn_once_that_the_result_is_not_said_to_be_of_few_steps(make, recipe, caplog):
    check_job(make(recipe, "few.safetensors"), "unused")
    (line,) = told(caplog)
    assert "few.safetensors is distilled to few steps (sampler euler, " in line
    assert f"what recipe {recipe} makes of it is not said to be: start from the motion module" in line


@pytest.mark.parametrize(
    ("recipe", "start", "model"),
    [
        ("finetune", "plain.safetensors", {}),
        ("distill", "plain.safetensors", {}),
        # The result is sampled with the motion module, which says it.
        ("finetune", "few.safetensors", {"lora_rank": 2}),
        ("motion_lora", "few.safetensors", {}),
    ],
)
def test_nothing_is_said_where_nothing_is_lost(make, recipe, start, model, caplog):
    check_job(make(recipe, start, model=model), "unused")
    assert not told(caplog)


def test_fresh_ones_are_no_distilled_ones(make, caplog):
    check_job(make("motion_module", "unused", model={"motion_module": None}), "unused")
    assert not told(caplog)
