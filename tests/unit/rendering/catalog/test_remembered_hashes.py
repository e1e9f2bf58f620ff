"""Remembered hashes: a file is read once, and again when it has changed; what is remembered decides nothing else."""

import json
import os

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.catalog import picture_uris, remembered_hashes
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.remembered_hashes import hash_catalog_files
from animatediff.weights import checkpoints


@pytest.fixture
def read(monkeypatch):
    """The files that were read since."""
    found = []
    monkeypatch.setattr(
        remembered_hashes.checkpoints,
        "content_hash",
        lambda uri, of=checkpoints.content_hash: found.append(uri) or of(uri),
    )
    return found


@pytest.fixture
def catalog(tmp_path):
    (tmp_path / "base" / "unet").mkdir(parents=True)
    for name in ("base/model_index.json", "base/unet/config.json"):
        (tmp_path / name).write_text("{}")
    for name in ("motion", "a", "b"):
        save_file({"x": torch.full((2,), float(ord(name[0])))}, tmp_path / f"{name}.safetensors")
    entries = [
        {"name": name, "prompts": ["x"], "loras": [{"path": str(tmp_path / f"{name[0]}.safetensors")}]}
        for name in ("a", "b", "b2", "no")
    ]
    motion = str(tmp_path / "motion.safetensors")
    return Catalog.model_validate({"base": str(tmp_path / "base"), "motion_module": motion, "entries": entries})


def test_files_are_read_once(catalog, tmp_path, read):
    kept = str(tmp_path / "out" / "inputs" / "hashes.json")
    first = expand(catalog, content_hash=hash_catalog_files(catalog, kept))
    assert sorted(read) == sorted([catalog.base, *(str(tmp_path / f"{n}.safetensors") for n in ("motion", "a", "b"))])
    read.clear()
    assert expand(catalog, content_hash=hash_catalog_files(catalog, kept)) == first
    assert read == []
    assert first == expand(catalog)


def test_pictures_and_videos_are_read_once_too(catalog, tmp_path, read):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "a.mp4").write_bytes(b"b")
    prompts = [{"prompt": "x", "init_image": str(tmp_path / "a.png")}, {"prompt": "y", "init_image": None}]
    entries = [entry.model_dump(exclude_unset=True) | {"prompts": prompts} for entry in catalog.entries]
    changed = Catalog.model_validate(
        catalog.model_dump(exclude_unset=True) | {"entries": entries, "init_video": str(tmp_path / "a.mp4")}
    )
    kept = str(tmp_path / "hashes.json")
    first = expand(changed, content_hash=hash_catalog_files(changed, kept))
    assert {str(tmp_path / name) for name in ("a.png", "a.mp4")} <= set(read)
    assert len(read) == len(set(read))
    read.clear()
    assert expand(changed, content_hash=hash_catalog_files(changed, kept)) == first
    assert read == []


def test_a_folder_of_pictures_is_listed_once_and_what_changes_in_it_is_noticed(catalog, tmp_path, read, monkeypatch):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.png").write_bytes(bytes([number]))
    control = {"net": str(tmp_path / "a.safetensors"), "pictures": str(pictures)}
    prompts = ["x", "y", {"prompt": "z", "controls": [control | {"scale": 0.5}]}]
    changed = Catalog.model_validate(
        catalog.model_dump(exclude_unset=True, exclude={"entries"})
        | {"controls": [control], "entries": [{"name": "a", "prompts": prompts}, {"name": "b", "prompts": prompts}]}
    )
    listed = []
    monkeypatch.setattr(
        picture_uris.storage, "list_files", lambda uri, of=storage.list_files: listed.append(uri) or of(uri)
    )
    kept = str(tmp_path / "hashes.json")
    content_hash = hash_catalog_files(changed, kept)
    assert listed == [str(pictures)]
    before = expand(changed, content_hash=content_hash)
    assert listed == [str(pictures)] * 2
    assert len({item.digest for item in before.items}) == 3
    times = (pictures / "1.png").stat().st_atime_ns, (pictures / "1.png").stat().st_mtime_ns + 1_000_000_000
    (pictures / "1.png").write_bytes(b"9")  # of the same size
    os.utime(pictures / "1.png", ns=times)
    read.clear()
    after = expand(changed, content_hash=hash_catalog_files(changed, kept))
    assert read == [str(pictures / "1.png")]
    assert not {item.digest for item in after.items} & {item.digest for item in before.items}


def test_a_changed_file_is_read_again(catalog, tmp_path, read):
    kept = str(tmp_path / "hashes.json")
    before = expand(catalog, content_hash=hash_catalog_files(catalog, kept))
    file = tmp_path / "a.safetensors"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns + 1_000_000_000
    save_file({"x": torch.full((2,), 99.0)}, file)
    os.utime(file, ns=times)
    (tmp_path / "base" / "unet" / "config.json").write_text('{"a": 1}')
    read.clear()
    after = expand(catalog, content_hash=hash_catalog_files(catalog, kept))
    assert set(read) == {str(file), catalog.base}
    assert after == expand(catalog)
    assert not {item.digest for item in after.items} & {item.digest for item in before.items}


def test_the_config_beside_pefts_file_counts(tmp_path):
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    save_file({"x": torch.ones(2)}, file)
    entries = [{"name": "a", "prompts": ["x"], "loras": [{"path": str(file)}]}]
    catalog = Catalog.model_validate({"base": "owner/name", "motion_module": str(file), "entries": entries})
    found = set()
    for text in (None, "{}", '{"r": 8}'):
        if text:
            config.write_text(text)
        found.add(hash_catalog_files(catalog, str(tmp_path / "hashes.json"))(str(file)))
    assert len(found) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"version": "x"}}', "\x00"])
def test_what_cannot_be_read_is_found_again(catalog, tmp_path, text):
    kept = tmp_path / "hashes.json"
    kept.write_text(text)
    assert expand(catalog, content_hash=hash_catalog_files(catalog, str(kept))) == expand(catalog)
    assert len(json.loads(kept.read_text())) == 4


def test_nothing_new_is_nothing_written(catalog, tmp_path):
    kept = tmp_path / "hashes.json"
    hash_catalog_files(catalog, str(kept))
    before = kept.stat().st_ino
    fewer = catalog.model_copy(update={"entries": catalog.entries[:1]})
    hash_catalog_files(fewer, str(kept))
    assert kept.stat().st_ino == before


def test_a_dry_run_reads_what_is_remembered_and_writes_nothing(catalog, tmp_path, read):
    kept = tmp_path / "out" / "hashes.json"
    first = expand(catalog, content_hash=hash_catalog_files(catalog, str(kept), is_dry_run=True))
    assert not kept.parent.exists()
    assert first == expand(catalog, content_hash=hash_catalog_files(catalog, str(kept)))
    read.clear()
    assert first == expand(catalog, content_hash=hash_catalog_files(catalog, str(kept), is_dry_run=True))
    assert read == []


def test_remote_files_are_known_by_what_their_storage_says(tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.weights.reading.files.CACHE", tmp_path / "cache")
    remote = fsspec.filesystem("memory")
    entries = [{"name": "a", "prompts": ["x"]}]
    uri = f"memory://{tmp_path.name}/motion.safetensors"
    catalog = Catalog.model_validate({"base": "owner/name", "motion_module": uri, "entries": entries})
    kept = f"memory://{tmp_path.name}/out/hashes.json"
    remote.pipe_file(uri, b"one")
    found = [hash_catalog_files(catalog, kept)(uri)]
    opened = []
    monkeypatch.setattr(type(remote), "open", lambda *_, **__: opened.append(_))
    found.append(hash_catalog_files(catalog, kept)(uri))
    assert not opened
    monkeypatch.undo()
    monkeypatch.setattr("animatediff.weights.reading.files.CACHE", tmp_path / "cache")
    remote.pipe_file(uri, b"two")  # of the same size
    found.append(hash_catalog_files(catalog, kept)(uri))
    assert found[0] == found[1] != found[2]
    assert not (tmp_path / "cache").exists()
    assert found[2] == checkpoints.content_hash(uri)


def test_remote_folders_and_pefts_files_have_the_hash_that_they_have_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.weights.reading.files.CACHE", tmp_path / "cache")
    remote = fsspec.filesystem("memory")
    for name in ("folder/model.safetensors", "adapter_model.safetensors", "adapter_config.json"):
        remote.pipe_file(f"memory://{tmp_path.name}/{name}", b"{}")
    for name in ("folder", "adapter_model.safetensors"):
        uri = f"memory://{tmp_path.name}/{name}"
        entries = [{"name": "a", "prompts": ["x"]}]
        catalog = Catalog.model_validate({"base": "owner/name", "motion_module": uri, "entries": entries})
        assert hash_catalog_files(catalog, str(tmp_path / "hashes.json"))(uri) == checkpoints.content_hash(uri)


def test_a_file_without_a_version_is_not_remembered(catalog, tmp_path, monkeypatch, read):
    monkeypatch.setattr(remembered_hashes, "VERSION_FIELDS", ("ETag",))
    kept = str(tmp_path / "hashes.json")
    for _ in range(2):
        hash_catalog_files(catalog, kept)
    assert len(read) == 8


def test_what_is_missing_is_told_when_it_is_asked_for(catalog, tmp_path):
    with pytest.raises(UserError, match="there is no file or folder .*n.safetensors"):
        hash_catalog_files(catalog, str(tmp_path / "hashes.json"))(str(tmp_path / "n.safetensors"))
