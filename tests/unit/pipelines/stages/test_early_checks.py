"""What the jobs find out before there is a Ray, and their dry runs."""

import csv
import logging
import re
import tempfile

import pytest
import yaml

from animatediff.errors import UsageError, UserError
from animatediff.sprites import shipped
from pipelines import animate, ingest, score, train
from pipelines.cluster import runtime
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from pipelines.stages.animate import driver as animate_driver
from pipelines.stages.animate import score_driver
from pipelines.stages.ingest import driver as ingest_driver
from pipelines.stages.train import driver as train_driver
from pipelines.tracking.tracker import Tracker
from tests.support import mp4
from tests.unit.data.loading.test_loader import write_dataset

BASE = str(shipped.BASE)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    def connect():
        raise AssertionError("Ray was started")

    for driver in (runtime, ingest_driver, score_driver, train_driver):
        monkeypatch.setattr(driver, "connect", connect)
    monkeypatch.setattr(animate_driver, "render_pending", connect)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("early") / "dataset", shapes=((4, 8, 8, 8),), shards=(5, 3))


@pytest.fixture
def run(dataset, tmp_path):
    """A train config's content."""
    model = {"motion_module": str(shipped.MOTION_MODULE)}
    own = {"run_name": "r", "dataset_uri": dataset, "base": BASE, "output_uri": str(tmp_path / "run")}
    return {**own, "recipe": "finetune", "model": model, "train": {"batch_size": 4, "num_steps": 100}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"where": "moton > 0.1"}, "there is no column 'moton', did you mean 'motion'?"),
        ({"where": "motion > 'fast'"}, "compares things of different types"),
        ({"where": "motion"}, "is float, not true or false"),
        ({"where": "motion > 1000"}, "no clip of .* fulfils 'motion > 1000'"),
        ({"base": "/no/base"}, "^base: there is no file or folder /no/base$"),
        ({"base": "./no/base"}, "^base: there is no file or folder ./no/base$"),
        ({"dataset_uri": "/no/data"}, "^dataset_uri: no dataset at /no/data: manifest.json is missing"),
        ({"model": {"motion_module": "/no/m.safetensors"}}, "^model.motion_module: there is no .*/no/m.safetensors"),
        ({"base_checkpoints": ["/no/c.ckpt"]}, r"^base_checkpoints\[0\]: there is no file or folder /no/c.ckpt"),
        ({"mix": {"dataset_uri": "/no/mix"}}, "^mix: no dataset at /no/mix"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_training_refuses_before_anything_is_begun(run, tmp_path, changes, says, dry_run):
    with pytest.raises(UserError, match=says) as caught:
        train.main(TrainJobConfig.model_validate(run | changes | {"dry_run": dry_run}))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_domain_adapter_names_its_field(run, tmp_path):
    run["model"] |= {"domain_adapter": {"path": "/no/a.safetensors"}}
    with pytest.raises(UserError, match="^model.domain_adapter.path: there is no file or folder /no/a.safetensors"):
        train.main(TrainJobConfig.model_validate(run))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_training_tells_what_it_would_do(run, tmp_path, caplog):
    run |= {"where": "motion >= 2", "dry_run": True, "rate": {"seconds_per_step": 36, "usd_per_hour": 2}}
    with caplog.at_level(logging.INFO):
        assert train.main(TrainJobConfig.model_validate(run)) is None
    text = caplog.text
    assert "to train on: 6 of 8 clips that fulfil 'motion >= 2', 4x64x64" in text
    assert "100 to do, 0 are done; one of 4 clips" in text
    assert "66.7 epochs" in text
    assert "parameters stay frozen" in text
    assert "time: 1.0 h on 1 workers, 2.00 USD" in text
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_without_a_measured_rate_reckons_with_the_operations_of_a_step(run, caplog):
    with caplog.at_level(logging.INFO):
        assert train.main(TrainJobConfig.model_validate(run | {"dry_run": True})) is None
    (told,) = [line for line in caplog.messages if line.startswith("time: ")]
    assert re.search(r"reckoned with 0\.[0-9]+ TFLOP a step and 125 TFLOP/s a worker", told)


@pytest.fixture
def videos(tmp_path):
    """An ingest config's content, and a source of one video."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(mp4(8))
    with (tmp_path / "in" / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video", "caption"], ["a.mp4", "a cat"]])
    own = {"source": {"uri": str(tmp_path / "in" / "a.csv")}, "base": BASE, "output_uri": str(tmp_path / "out")}
    return {**own, "clips": {"height": 64, "width": 64, "num_frames": 4}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clips": {"height": 64, "width": 64, "num_frames": 8}}, "clips.num_frames: 4 -> 8"),
        ({"decode": {"decoders": ["pyav"]}}, "decoders: .* -> .*pyav"),
        ({"vae_dtype": "bfloat16"}, "vae_dtype: float16 -> bfloat16"),
        ({"use_gpu": False}, "vae_dtype: float16 -> float32"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_ingest_and_its_dry_run_refuse_changed_settings_alike(videos, monkeypatch, changes, says, dry_run, caplog):
    config = IngestConfig.model_validate(videos | {"dry_run": True})
    # As a job on GPUs leaves a dataset's plan.
    inputs = ingest_driver.read_inputs(config)
    ingest_driver.plan_job(config, inputs, use_gpu=True)
    with caplog.at_level(logging.INFO):
        ingest.main(config)  # no cluster is known: what `auto` meant there, it may mean again
    assert "1 videos in 1 units, 0 of them new" in caplog.text
    with pytest.raises(UsageError, match=f"was made with other settings .*{says}"):
        ingest.main(IngestConfig.model_validate(videos | changes | {"dry_run": dry_run}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": {"uri": "/no/videos.csv"}}, "^source: .*no/videos.csv"),
        ({"base": "/no/base"}, "^base: there is no file or folder /no/base$"),
        ({"scorers": ["no.such:thing"]}, "^scorers: .*no.such:thing"),
        ({"retry_quarantined": ["empty"]}, "is not sealed yet"),
    ],
)
def test_ingest_names_the_field(videos, tmp_path, changes, says):
    with pytest.raises(UserError, match=says):
        ingest.main(IngestConfig.model_validate(videos | changes))
    assert not (tmp_path / "out").exists()


def test_animate_and_score_name_the_field(tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="^catalog_uri: there is no file /no/catalog.yaml"):
        animate.main(AnimateConfig(catalog_uri="/no/catalog.yaml", output_uri=out))
    entries = [{"name": "a", "checkpoint": "/no/a.safetensors"}, {"name": "b", "vae": "/no/b.safetensors"}]
    catalog = {"base": "/no/base", "motion_module": "/no/m.safetensors", "prompts": ["a"], "entries": entries}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    with pytest.raises(UserError) as caught:
        animate.main(AnimateConfig(catalog_uri=str(tmp_path / "catalog.yaml"), output_uri=out))
    for field in ("motion_module", "checkpoint", "vae"):
        assert f"{field}: there is no" in str(caught.value)
    with pytest.raises(UserError, match="^scorer: .*no.such:thing"):
        score.main(ScoreConfig(output_uri=out, scorer="no.such:thing"))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_animate_plans_what_the_job_does_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow's database
    with Tracker("test", run_id=None, params={}, tags={}) as tracker:
        tracker.register("moves", str(shipped.MOTION_MODULE), tags={})
    sizes = {"width": 64, "height": 64, "guidance_scale": 5}
    catalog = {"base": BASE, "motion_module": "models:/moves/1", "prompts": ["a large red star moving right"], **sizes}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog | {"entries": [{"name": "a"}]}))
    plans = []
    monkeypatch.setattr(animate_driver, "estimate", lambda plan, *_: plans.append(plan) or [])
    monkeypatch.setattr(animate_driver, "render_pending", lambda _, plan, *__: plans.append(plan))
    monkeypatch.setattr(animate_driver, "log_counts_and_raise_if_failed", lambda *_: None)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def run(*, dry_run):
        before = set(tmp_path.rglob("*"))
        config = AnimateConfig(catalog_uri="catalog.yaml", output_uri=str(tmp_path / "out"), dry_run=dry_run)
        animate.main(config)
        return {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - before}

    assert run(dry_run=True) == set()
    assert {"out/inputs/hashes.json", "out/config.yaml"} <= run(dry_run=False)
    assert run(dry_run=True) == set()
    before, planned, after = plans
    assert before.items == planned.items == after.items
