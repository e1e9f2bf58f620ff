"""What is known of a run of an earlier version: the noise schedule that it trains with, sections that came later."""

from types import SimpleNamespace

import pytest

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.weights import motion_modules
from pipelines.settings import TrainJobConfig
from pipelines.stages.train import earlier_runs
from tests.unit.weights.test_motion_modules import make

WHOLE = NoiseSchedule(beta_end=0.013).model_dump(mode="json")


@pytest.mark.parametrize(
    ("schedule", "of_file", "known"),
    [
        (WHOLE, None, True),  # the file said nothing: the config's was trained with
        (WHOLE, {"beta_end": 0.02}, False),  # either may have been
        (WHOLE | {"beta_end": None}, None, False),  # of this version
        (None, None, False),
    ],
)
def test_the_schedule_is_the_configs_where_the_file_said_nothing(tmp_path, schedule, of_file, known):
    uri = str(tmp_path / "mm.safetensors")
    motion_modules.write(uri, make("v2"), schedule=of_file)
    recipe = SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(motion_module=uri)))
    found = earlier_runs.schedule_trained_with({"schedule": schedule}, recipe)
    assert found == (NoiseSchedule(beta_end=0.013) if known else None)


def test_fresh_motion_modules_have_no_schedule_of_their_own():
    recipe = SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(motion_module=None)))
    assert earlier_runs.schedule_trained_with({"schedule": WHOLE}, recipe) is None


def test_a_section_that_a_run_does_not_know_is_what_it_did():
    new = TrainJobConfig(run_name="run", dataset_uri="data", base="base", output_uri="out").model_dump(mode="json")
    old = {name: section for name, section in new.items() if name != "text"}
    assert earlier_runs.with_defaults_of_newer_sections(old) == new
    assert earlier_runs.with_defaults_of_newer_sections(old | {"text": {"chunks": 3}})["text"] == {"chunks": 3}
