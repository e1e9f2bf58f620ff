"""Weights named by MLflow's URIs, on a real registry in an SQLite file."""

import json
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.weights.checkpoints import content_hash
from pipelines.tracking.model_uris import fetch_catalog_weights, fetch_weights
from pipelines.tracking.tracker import Tracker, tracking_uri


def weights(folder, value, name="motion_module"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.full((2,), float(value))}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A folder with `runs/mlflow.db`, and the files behind it by the names of the URIs that stand for them."""
    folder = tmp_path_factory.mktemp("registry")
    first, second = weights(folder / "1", 1), weights(folder / "2", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with Tracker("test", run_id=None, params={}, tags={}) as tracker:
            for file in (first, second):
                tracker.register("moves", str(file), tags={})
            tracker.log_file("config.yaml", b"a: 1")
            tracker.log_file("plain/lora.safetensors", first.read_bytes())
            tracker.log_file("peft/adapter_model.safetensors", first.read_bytes())
            tracker.log_file("peft/adapter_config.json", json.dumps({"r": 8, "lora_alpha": 8}).encode())
        client = MlflowClient(tracking_uri())
        client.set_registered_model_alias("moves", "best", "1")
        client.create_registered_model("empty")
        # As others register: the version's source is a file, not a folder.
        client.create_registered_model("a file")
        artifacts = client.get_run(tracker.run_id).info.artifact_uri
        client.create_model_version("a file", f"{artifacts}/plain/lora.safetensors", tracker.run_id)
    run = f"runs:/{tracker.run_id}"
    return {
        "folder": folder,
        "run": run,
        "models:/moves/1": first,
        "models:/moves/2": second,
        "models:/moves@best": first,
        "models:/moves/latest": second,
        "models:/moves/latest/motion_module.safetensors": second,
        "models:/moves@best/motion_module.safetensors": first,
        "models:/a file/1": first,
        f"{run}/plain/lora.safetensors": first,
        f"{run}/plain": first,
    }


@pytest.fixture(autouse=True)
def workplace(registry, monkeypatch):
    monkeypatch.chdir(registry["folder"])


FORMS = (
    "models:/moves/1",
    "models:/moves/2",
    "models:/moves@best",
    "models:/moves/latest",
    "models:/moves/latest/motion_module.safetensors",
    "models:/moves@best/motion_module.safetensors",
    "models:/a file/1",
    "RUN/plain/lora.safetensors",
    "RUN/plain",
)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_a_file_of_the_same_content_below_the_output(registry, tmp_path, form):
    uri = form.replace("RUN", registry["run"])
    found = Path(fetch_weights(uri, str(tmp_path)))
    assert found.read_bytes() == registry[uri].read_bytes()
    assert found.parent == tmp_path / "inputs" / content_hash(str(registry[uri]))


def test_a_file_that_is_there_is_not_put_there_again(tmp_path):
    found = Path(fetch_weights("models:/moves/1", str(tmp_path)))
    before = found.stat()
    assert fetch_weights("models:/moves@best", str(tmp_path)) == str(found)
    after = found.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [found]


def test_the_output_folder_may_be_in_remote_storage(registry, tmp_path):
    found = fetch_weights("models:/moves/1", f"memory://{tmp_path.name}")
    assert found.startswith(f"memory://{tmp_path.name}/inputs/")
    assert storage.read_bytes(found) == registry["models:/moves/1"].read_bytes()


def test_pefts_config_comes_along(registry, tmp_path):
    found = fetch_weights(f"{registry['run']}/peft", str(tmp_path / "out"))
    alike = weights(tmp_path / "alike", 1, "adapter_model")
    (alike.parent / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 8}))
    assert content_hash(found) == content_hash(str(alike))
    assert {path.name for path in Path(found).iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}


@pytest.mark.parametrize("uri", ["a.safetensors", "s3://bucket/models:/a", "owner/name", "/models/a.ckpt"])
def test_other_uris_come_back_unchanged(tmp_path, uri):
    assert fetch_weights(uri, str(tmp_path)) == uri


ERRORS = {
    "models:/walks/1": r"has no registered model 'walks': check it, and MLFLOW_TRACKING_URI",
    "models:/moves/7": r"has no version 7 of registered model 'moves' \(the latest is 2\)",
    "models:/moves@worst": r"registered model 'moves' has no alias 'worst': it has best",
    "models:/empty/latest": r"registered model 'empty' has no version yet",
    "models:/moves": r"names no weights: write models:/NAME/VERSION, ",
    "models:/moves/Production": r"names no weights: write models:/NAME/VERSION, ",
    "models:/moves/1/other.ckpt": r"has no weights file .* there is motion_module.safetensors",
    "runs:/0123456789abcdef0123456789abcdef": r"has no run 0123456789abcdef",
    "RUN/config.yaml/x": r"has no weights file .* there is config.yaml, ",
    "RUN/nothing": r"has no weights file .* there is config.yaml, ",
    "RUN": r"has 4 weights files: name one, as in runs:/\w+/models/\w+/motion_module.safetensors",
    "RUN/models": r"has 2 weights files: name one, as in runs:/\w+/models/\w+/motion_module.safetensors",
}


@pytest.mark.parametrize(("form", "told"), ERRORS.items())
def test_what_is_not_there_is_one_line(registry, tmp_path, form, told):
    with pytest.raises(UserError, match=told) as caught:
        fetch_weights(form.replace("RUN", registry["run"]), str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unreachable_server_is_one_line_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"cannot use MLflow at http://127.0.0.1:9: .*MLFLOW_TRACKING_URI") as caught:
        fetch_weights("models:/moves/1", str(tmp_path))
    assert time.monotonic() - start < 20
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def catalog_of(folder, uri, **entry):
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "model_index.json").write_text("{}")
    entries = [{"name": "one", "prompts": ["a cat"], "num_frames": 4, **entry}]
    return Catalog.model_validate({"base": str(folder / "base"), "motion_module": uri, "entries": entries})


def places(uri):
    """An entry's weights, all the same."""
    low_rank = {"path": uri, "scale": 0.5}
    return {
        "motion_module": uri,
        "checkpoint": uri,
        "vae": uri,
        "loras": [low_rank],
        "domain_adapter": low_rank,
        "motion_loras": [low_rank, low_rank],
        "embeddings": [{"path": uri, "token": "word"}],
    }


def test_items_of_a_catalog_have_the_digests_that_files_give(registry, tmp_path):
    by_uri = catalog_of(tmp_path, "models:/moves@best", **places("models:/moves/2"))
    assert by_uri.motion_module == "models:/moves@best"
    files = [str(registry[uri]) for uri in ("models:/moves/1", "models:/moves/2")]
    by_file = catalog_of(tmp_path, files[0], **places(files[1]))
    resolved = fetch_catalog_weights(by_uri, str(tmp_path / "out"))
    assert expand(resolved).items == expand(by_file).items
    assert "models:/" not in resolved.model_dump_json()
    assert len(list((tmp_path / "out" / "inputs").rglob("*.safetensors"))) == 2


def test_entries_may_have_motion_modules_of_their_own(registry, tmp_path):
    catalog = catalog_of(tmp_path, None, motion_module="models:/moves/1")
    other = catalog.entries[0].model_copy(update={"name": "two", "motion_module": str(registry["models:/moves/2"])})
    catalog = catalog.model_copy(update={"entries": (*catalog.entries, other)})
    resolved = fetch_catalog_weights(catalog, str(tmp_path / "out"))
    assert resolved.motion_module is None
    assert Path(resolved.entries[0].motion_module).read_bytes() == registry["models:/moves/1"].read_bytes()
    assert resolved.entries[1] is other


def test_what_prompts_name_is_fetched_too(registry, tmp_path):
    def catalog(uri):
        (tmp_path / "one.png").write_bytes(b"")
        control = {"net": uri, "pictures": str(tmp_path / "one.png")}
        image = {"adapter": uri, "pictures": str(tmp_path / "one.png")}
        prompts = [{"prompt": "a dog", "controls": [control]}, {"prompt": "a fish", "images": [image]}, "a cat"]
        entries = [{"name": "own", "prompts": prompts, "image_encoder": uri}, {"name": "shared", "controls": [control]}]
        weights = {"base": str(tmp_path), "motion_module": str(registry["models:/moves/1"])}
        return Catalog.model_validate(weights | {"controls": [control], "prompts": prompts, "entries": entries})

    resolved = fetch_catalog_weights(catalog("models:/moves/2"), str(tmp_path / "out"))
    assert "models:/" not in resolved.model_dump_json()
    by_file = catalog(str(registry["models:/moves/2"]))
    assert [item.digest for item in expand(resolved).items] == [item.digest for item in expand(by_file).items]


def test_a_catalog_of_files_asks_no_server(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    by_file = catalog_of(tmp_path, str(registry["models:/moves/1"]))
    assert fetch_catalog_weights(by_file, str(tmp_path / "out")) == by_file
    assert not (tmp_path / "out").exists()
