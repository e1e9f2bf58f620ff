"""A run trains with the noise schedule that its motion module's file names, however its config was put together."""

import json

import pytest
import torch
import yaml

from animatediff.config import parse
from animatediff.diffusion.noise_schedule import NoiseSchedule, NoiseScheduleOverrides
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.training.config import TrainingConfig
from animatediff.training.recipes.table import recipe_of
from animatediff.training.trainer import Trainer
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from pipelines.stages.train.run import check_job, start_or_resume
from tests.support_base import build_base
from tests.support_data import make_dataset

TRAINED = NoiseSchedule(beta_end=0.02, beta_schedule="scaled_linear", prediction_type="v_prediction")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture
def fields(base, tmp_path):
    """A fine-tuning of a motion module that was trained with another schedule than the reference's."""
    motion = str(tmp_path / "motion.safetensors")
    modules = MotionModules.for_base(load_unet(base), MotionConfig())
    motion_modules.write(motion, modules, schedule=TRAINED.model_dump())
    make_dataset(str(tmp_path / "dataset"), 6, rejects=lambda number: False)
    return {
        "run_name": "run",
        "recipe": "finetune",
        "dataset_uri": str(tmp_path / "dataset"),
        "base": base,
        "output_uri": str(tmp_path / "run"),
        "model": {"motion_module": motion},
        "train": {"num_steps": 2, "batch_size": 2},
    }


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--optim.lr", "3e-4"],
        ["--train.num-steps", "20000"],
        ["--train.holdout=0.1", "--allow-config-change"],
        ["--no-dry-run"],
        ["--scaling.num-workers", "1", "2"],
    ],
)
def test_a_flag_changes_no_schedule(fields, file, flags):
    config = parse(TrainJobConfig, ["--config", file(fields), *flags])
    assert check_job(config, fields["output_uri"]).recipe.noise_schedule == TRAINED


@pytest.mark.parametrize("in_file", [True, False])
def test_what_a_config_says_holds_and_the_rest_is_the_files(fields, file, in_file):
    said = {"schedule": {"beta_end": 0.012}}
    flags = [] if in_file else ["--schedule.beta-end", "0.012"]
    config = parse(TrainJobConfig, ["--config", file(fields | said if in_file else fields), *flags])
    job = check_job(config, fields["output_uri"])
    assert job.recipe.noise_schedule == TRAINED.model_copy(update={"beta_end": 0.012})


def test_a_resumed_run_keeps_its_schedule(fields, file):
    first = start_or_resume(parse(TrainJobConfig, ["--config", file(fields)]))
    assert first.run.noise_schedule == TRAINED
    resumed = start_or_resume(parse(TrainJobConfig, ["--config", file(fields), "--train.num-steps", "20000"]))
    assert resumed.recipe.noise_schedule == resumed.run.noise_schedule == TRAINED
    with pytest.raises(UserError, match=r"schedule.beta_end: None -> 0.012"):
        start_or_resume(parse(TrainJobConfig, ["--config", file(fields), "--schedule.beta-end", "0.012"]))


def test_a_run_does_not_go_on_from_a_file_of_another_schedule(fields, file):
    start_or_resume(parse(TrainJobConfig, ["--config", file(fields)]))
    motion = fields["model"]["motion_module"]
    motion_modules.write(motion, motion_modules.read(motion), schedule={"beta_end": 0.03})
    with pytest.raises(UserError, match=r"the noise schedule's beta_end: 0.02 -> 0.03"):
        start_or_resume(parse(TrainJobConfig, ["--config", file(fields)]))


@pytest.mark.parametrize("said", [{}, {"beta_schedule": "linear"}])
def test_a_run_of_an_earlier_version_goes_on(fields, file, said, tmp_path):
    content = fields | ({"schedule": said} if said else {})
    start_or_resume(parse(TrainJobConfig, ["--config", file(content)]))
    written = tmp_path / "run" / "config.yaml"
    # These wrote the whole schedule, and none into the run's state.
    old = yaml.safe_load(written.read_text()) | {"schedule": NoiseSchedule().model_dump(mode="json") | said}
    written.write_text(yaml.safe_dump(old, sort_keys=False))
    state = tmp_path / "run" / "run.json"
    content_of_state = json.loads(state.read_text())
    del content_of_state["noise_schedule"]
    state.write_text(json.dumps(content_of_state))
    start_or_resume(parse(TrainJobConfig, ["--config", file(content), "--train.num-steps", "20000"]))


def test_a_trainer_of_the_library_trains_with_it_too(fields):
    recipe = TrainingConfig.model_validate(
        {name: value for name, value in fields.items() if name in TrainingConfig.model_fields}
    )
    trainer = Trainer(recipe, device=torch.device("cpu"))
    assert trainer.recipe.noise_schedule == TRAINED
    resolved = trainer.recipe.resolved_config
    assert recipe_of(resolved).resolved_config is resolved


def test_two_that_are_no_schedule_together_are_told(fields):
    recipe = TrainingConfig.model_validate(
        {name: value for name, value in fields.items() if name in TrainingConfig.model_fields}
        | {"schedule": {"prediction_type": "epsilon", "zero_terminal_snr": True}}
    )
    with pytest.raises(UserError, match=r"schedule beside what .*motion.safetensors says: zero_terminal_snr needs"):
        recipe_of(recipe).noise_schedule  # noqa: B018
    late = recipe.model_copy(update={"schedule": NoiseScheduleOverrides()})
    late = TrainingConfig(
        **({name: getattr(late, name) for name in TrainingConfig.model_fields} | {"objective": {"fade_from": 5000}})
    )
    with pytest.raises(UserError, match="fade_from 5000 is none of the 1000 timesteps"):
        recipe_of(late).noise_schedule  # noqa: B018


JOBS = [
    (IngestConfig, {"source": {"uri": "a"}, "output_uri": "b", "base": "c"}, ["--clips.stride", "4"], "clips"),
    (
        TrainJobConfig,
        {"run_name": "a", "dataset_uri": "b", "base": "c", "output_uri": "d"},
        ["--optim.lr", "1e-4"],
        "optim",
    ),
    (AnimateConfig, {"catalog_uri": "a", "output_uri": "b"}, ["--crf", "18"], "crf"),
    (ScoreConfig, {"output_uri": "b", "scorer": "c:d"}, ["--scorer", "c:d"], "scorer"),
]


@pytest.mark.parametrize(("schema", "content", "flags", "name"), JOBS)
def test_a_flag_sets_its_own_field_alone(file, schema, content, flags, name):
    uri = file(content)
    plain, flagged = parse(schema, ["--config", uri]), parse(schema, ["--config", uri, *flags])
    assert flagged.model_fields_set == plain.model_fields_set | {name}
    assert flagged.model_dump() == plain.model_dump() | {name: flagged.model_dump()[name]}
    given = [part for field, value in content.items() for part in (f"--{field.replace('_', '-')}", value)]
    if all(isinstance(part, str) for part in given):
        assert parse(schema, given).model_fields_set == plain.model_fields_set
