"""The objective that a config may ask for."""

import pytest
from pydantic import ValidationError

from animatediff.training.settings import ObjectiveConfig


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
