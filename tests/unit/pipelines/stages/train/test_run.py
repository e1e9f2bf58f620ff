"""What a training run goes on with: the same clips, whatever else has become of their dataset."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from animatediff.data.manifest import Manifest, read_manifest, write_manifest
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines.settings import TrainJobConfig
from pipelines.stages.train.run import RunState, start_or_resume
from tests.support_base import build_base
from tests.support_data import commit, do_seal, make_dataset, make_videos, plan


def none(number):
    return False


def every(number):
    return True


def extend(dataset, num_videos, *, rejects):
    """Ingest again, with further videos in the source."""
    units, rejected = plan(dataset, make_videos(num_videos))
    for unit in units[read_manifest(dataset).num_units :]:
        commit(dataset, unit, rejects=rejects)
    return do_seal(dataset, units, rejected_in_planning=rejected)


def counted_digest(manifest: Manifest):
    """A dataset's version as runs kept it before, over the whole manifest."""
    content = manifest.model_dump_json(exclude={"latent_channels", "latent_factor"})  # which came later
    return hashlib.sha256(content.encode()).hexdigest()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture
def dataset(tmp_path):
    uri = str(tmp_path / "dataset")
    make_dataset(uri, 6, rejects=none)
    return uri


@pytest.fixture
def config(dataset, base, tmp_path):
    def make(**changes):
        fields = {"run_name": "run", "dataset_uri": dataset, "base": base, "output_uri": str(tmp_path / "run")}
        return TrainJobConfig.model_validate(fields | changes)

    return make


def broken_videos(dataset):
    extend(dataset, 8, rejects=every)


def sealed_again(dataset):
    shutil.rmtree(dataset)
    make_dataset(dataset, 6, rejects=none)


def other_clips(dataset):
    shutil.rmtree(dataset)
    make_dataset(dataset, 6, rejects=lambda number: number == 0)


def a_card(dataset):
    Path(dataset, "README.md").write_text("what it is")


def counts_alone(dataset):
    counts = {"num_units": 77, "num_videos": 5, "quarantined": {"decode_error": 3}}
    write_manifest(dataset, read_manifest(dataset).model_copy(update=counts))


@pytest.mark.parametrize("change", [broken_videos, sealed_again, a_card, counts_alone])
def test_a_run_goes_on_where_its_clips_are_the_same(dataset, config, change):
    first = start_or_resume(config()).run
    change(dataset)
    assert start_or_resume(config()).run.dataset_digest == first.dataset_digest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda dataset: extend(dataset, 8, rejects=none), r"the clips of \S+dataset \(2 were added to 6\)"),
        (other_clips, r"the clips of \S+dataset \(its 5 are not the 6 of before\)"),
    ],
)
def test_other_clips_are_refused_with_their_number(dataset, config, change, told, caplog):
    start_or_resume(config())
    change(dataset)
    with pytest.raises(UserError, match=f"differs in {told}: .*--allow-config-change") as error:
        start_or_resume(config())
    assert "\n" not in str(error.value)
    start_or_resume(config(allow_config_change=True))
    start_or_resume(config())  # from now on these are the run's clips


def keep_as_before(config, digest):
    """The run's state as earlier versions wrote it."""
    start_or_resume(config)
    path = Path(config.output_uri, "run.json")
    content = json.loads(path.read_text())
    del content["datasets"]
    path.write_text(json.dumps(content | {"dataset_digest": digest}))


@pytest.mark.parametrize("change", [a_card, broken_videos])
@pytest.mark.parametrize("rejects", [none, lambda number: number == 2])
def test_a_run_of_an_earlier_version_goes_on_too(tmp_path, dataset, config, change, rejects):
    make_dataset(str(tmp_path / "older"), 6, rejects=rejects)
    older = config(dataset_uri=str(tmp_path / "older"))
    keep_as_before(older, counted_digest(read_manifest(older.dataset_uri)))
    change(older.dataset_uri)
    run = start_or_resume(older).run
    assert run.dataset_digest == run.datasets[0].digest == read_manifest(older.dataset_uri).digest()


def test_a_run_of_an_earlier_version_with_other_clips_is_refused(dataset, config):
    keep_as_before(config(), counted_digest(read_manifest(dataset)))
    extend(dataset, 8, rejects=none)
    with pytest.raises(UserError, match=r"differs in the content of \S+dataset: .*--allow-config-change"):
        start_or_resume(config())


def test_what_is_mixed_in_counts_as_well(tmp_path, dataset, base, config):
    other = str(tmp_path / "other")
    make_dataset(other, 3, rejects=none)
    module = str(tmp_path / "motion_module.safetensors")
    motion_modules.write(module, MotionModules.for_base(load_unet(base), MotionConfig()))
    mixed = config(recipe="finetune", mix={"dataset_uri": other, "share": 0.5}, model={"motion_module": module})
    run = start_or_resume(mixed).run
    assert run.dataset_digest == f"{read_manifest(dataset).digest()}+{read_manifest(other).digest()}"
    keep_as_before(mixed, f"{counted_digest(read_manifest(dataset))}+{counted_digest(read_manifest(other))}")
    extend(other, 4, rejects=every)
    assert start_or_resume(mixed).run.dataset_digest == run.dataset_digest
    extend(other, 6, rejects=none)
    with pytest.raises(UserError, match=r"the clips of \S+other \(2 were added to 3\)"):
        start_or_resume(mixed)


def test_the_state_is_read_back(config):
    run = start_or_resume(config()).run
    assert RunState.model_validate_json(Path(config().output_uri, "run.json").read_bytes()) == run
