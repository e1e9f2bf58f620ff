"""A job writes into a new folder, or into its own from before, and into nothing else."""

import inspect
import shutil
from pathlib import Path

import fsspec
import pytest

import pipelines
from animatediff import storage
from animatediff.errors import UsageError
from animatediff.training.recipes.recipe import Recipe
from pipelines.outputs.output_folder import check_output, check_results

FOLDERS = {
    "ingest": {"config.yaml": "source:\n  uri: a\nbase: b\n", "manifest.json": '{"dataset_key": "a"}', "parts/a": ""},
    "ingest, older": {"plan/settings.json": '{"encoder_fp": "a"}'},
    "train": {"config.yaml": "recipe: finetune\nrun_name: a\n", "run.json": '{"dataset_digest": "a"}'},
    "train, its config lost": {"run.json": '{"dataset_digest": "a"}', "checkpoints/a": ""},
    "animate": {"config.yaml": "catalog_uri: a\n", "items/a.json": "{}"},
    "animate, its config lost": {"results.parquet": "PAR1 model_hashes PAR1", "index.html": ""},
    "model": {"model_index.json": '{"_class_name": "StableDiffusionPipeline"}', "unet/config.json": "{}"},
}
JOBS = ("ingest", "train", "animate")


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    yield str(tmp_path / "out") if request.param == "local" else "memory://out/of/it"
    fs = fsspec.filesystem("memory")
    if fs.exists("/out"):
        fs.rm("/out", recursive=True)


def fill(root, files):
    for name, text in files.items():
        storage.write_bytes(storage.join(root, name), text.encode())
    return {name: storage.read_bytes(storage.join(root, name)) for name in files}


@pytest.mark.parametrize("kind", FOLDERS)
def test_each_job_takes_its_own_folder_and_no_other(root, kind):
    fill(root, FOLDERS[kind])
    for job in JOBS:
        if kind.startswith(job):
            check_output(root, job)
            continue
        with pytest.raises(UsageError, match=rf"output_uri: {root} holds .*{kind.split(',')[0]}.*: choose") as caught:
            check_output(root, job)
        assert "\n" not in str(caught.value)
    if kind.startswith("animate"):
        check_results(root)
    else:
        with pytest.raises(UsageError, match="no clips: name the animate job's folder"):
            check_results(root)


def recipe_classes(of=Recipe):
    """Return the recipes that can be made, whether the table of their names has them or a function chooses them."""
    below = of.__subclasses__()
    return [
        *(recipe for recipe in below if not inspect.isabstract(recipe)),
        *(recipe for each in below for recipe in recipe_classes(each)),
    ]


@pytest.mark.parametrize("prefix", ["", "best_"])
def test_weights_of_somebody_else_are_never_written_over_by_any_recipe(tmp_path, prefix):
    names = {prefix + recipe.weights_file for recipe in recipe_classes()}
    assert f"{prefix}sparse_control.safetensors" in names
    for name in names:
        fill(str(tmp_path / name), {name: "mine"})
        with pytest.raises(UsageError, match=f"holds a {name} that is not this job's"):
            check_output(str(tmp_path / name), "train")


@pytest.mark.parametrize("job", JOBS)
def test_a_new_folder_and_one_that_a_job_may_share(root, job):
    check_output(root, job)
    check_results(root)
    fill(root, {"catalog.yaml": "entries: []\n", "notes.txt": "", "dataset/manifest.json": '{"dataset_key": "a"}'})
    check_output(root, job)


@pytest.mark.parametrize(
    ("job", "files", "says"),
    [
        ("train", {"config.yaml": "services: {}\n"}, "config.yaml that is not this job's"),
        ("ingest", {"README.md": "My project"}, "README.md that is not this job's"),
        ("ingest", {"manifest.json": '{"name": "web app"}'}, "manifest.json that is not this job's"),
        ("train", {"motion_module.safetensors": "mine"}, "motion_module.safetensors that is not this job's"),
        ("animate", {"index.html": "<html>"}, "index.html that is not this job's"),
        ("animate", {"config.yaml": "catalog_uri: a  # mine\n"}, "config.yaml that this job would write over"),
        ("train", {"config.yaml": "run_name: [\n"}, "config.yaml that this job would write over"),
    ],
)
def test_files_of_somebody_else_are_never_written_over(root, job, files, says):
    fill(root, files)
    with pytest.raises(UsageError, match=says):
        check_output(root, job)


def test_a_folder_that_another_job_manages_is_no_place_for_results(root):
    fill(root, FOLDERS["train"])
    check_output(storage.join(root, "dataset"), "ingest")
    check_output(storage.join(root, "clips"), "animate")
    for job, place in (("animate", "checkpoints/clips"), ("ingest", "sample"), ("train", "checkpoints")):
        with pytest.raises(UsageError, match="lies in (checkpoints|sample)/ of .* which manages it"):
            check_output(storage.join(root, place), job)
    dataset = storage.join(root, "dataset")
    fill(dataset, FOLDERS["ingest"])
    with pytest.raises(UsageError, match="lies in bucket=16x64x64/"):
        check_output(storage.join(dataset, "bucket=16x64x64"), "train")


def test_what_is_no_folder_of_a_jobs_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").write_text("x")
    for uri, says in (
        (str(tmp_path / "file"), "is a file"),
        (str(tmp_path), "no folder of a job's own"),
        ("~", "no folder of a job's own"),
        (f"file://{tmp_path}", "no folder of a job's own"),
        ("/", "no folder of a job's own"),
        ("", "names no folder"),
        ("~nobody-has-this-name/a", "names no folder"),
    ):
        with pytest.raises(UsageError, match=says):
            check_output(uri, "train")
    check_output("~/new", "train")


def test_what_the_jobs_themselves_leave_is_known(tmp_path):
    shipped = Path(pipelines.__file__).parent / "configs" / "sprites"
    for job in JOBS:
        shutil.copy(shipped / f"{job}.yaml", tmp_path / "config.yaml")
        for other in JOBS:
            if other != job:
                with pytest.raises(UsageError, match=rf"holds .*{job}.py \(config.yaml\)"):
                    check_output(str(tmp_path), other)
