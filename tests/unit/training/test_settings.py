"""The objective that a config may ask for, and the fields that name files."""

from functools import reduce
from operator import getitem

import pytest
from pydantic import ValidationError

from animatediff.errors import UserError
from animatediff.sprites.shipped import FEW_STEP
from animatediff.training.config import TrainingConfig
from animatediff.training.recipes.table import recipe_of
from animatediff.training.settings import ObjectiveConfig
from animatediff.weights.identify.weights_slots import place_for
from tests.support_base import build_base


def test_by_default_nothing_departs_from_the_reference():
    assert ObjectiveConfig().model_dump() == {
        "min_snr_gamma": None,
        "fade_from": None,
        "noise_offset": 0,
        "shared_noise": 0,
        "timestep_power": 1,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_snr_gamma": 0},
        {"noise_offset": -0.1},
        {"shared_noise": 1},
        {"shared_noise": -0.1},
        {"timestep_power": 0},
        {"fade_from": -1},
    ],
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(ValidationError):
        ObjectiveConfig(**wrong)


def test_what_a_file_is_told_to_be_in_a_training_is_a_field_of_its_config():
    config = TrainingConfig(recipe="finetune", dataset_uri="d", base="b", model={"motion_module": "m"}).model_dump()
    for family in ("motion_module", "checkpoint", "domain_adapter", "sparse_control"):
        *above, name = place_for(family).split("`")[3].removesuffix(":").split(".")
        assert name in reduce(getitem, above, config)
    assert place_for("motion_lora") == "`motion_loras:` in a catalog"


def test_a_file_that_no_training_starts_from_is_told_to_be_for_catalogs(tmp_path):
    base = str(build_base(tmp_path / "base"))
    config = TrainingConfig(recipe="finetune", dataset_uri="d", base=base, model={"motion_module": str(FEW_STEP)})
    told = r"^model.motion_module: .*is a MotionLoRA.*, not a motion module: give it as `motion_loras:` in a catalog$"
    with pytest.raises(UserError, match=told):
        recipe_of(config).resolved_config  # noqa: B018
