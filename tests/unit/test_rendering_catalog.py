"""Catalogs: what they expand to, what decides a digest, and how their faults are told."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering import catalog as catalogs
from animatediff.rendering.catalog import Catalog, expand
from animatediff.sprites.base import build_base
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, a motion module for it, and files that stand for LoRAs and checkpoints."""
    folder = tmp_path_factory.mktemp("weights")
    unet = load_unet(str(build_base(folder / "base")))
    motion_modules.write(str(folder / "motion.safetensors"), MotionModules.for_base(unet, MotionConfig()))
    for name in ("a", "b"):
        save_file({"emb_params": torch.full((1, 32), float(ord(name)))}, folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def content(files):
    return {
        "base": str(files / "base"),
        "motion_module": str(files / "motion.safetensors"),
        "entries": [{"name": "one", "prompts": ["a cat"]}],
    }


def items_of(content):
    return expand(Catalog.model_validate(content))


def digest_of(content, **entry):
    (item,) = items_of(content | {"entries": [content["entries"][0] | entry]})
    return item.digest


def test_an_item_for_every_entry_prompt_and_seed(content):
    content |= {"seeds": [1, 2], "fps": 12}
    content["entries"] = [
        {"name": "one", "prompts": ["cat", "dog"]},
        {"name": "two", "prompts": ["cat"], "seeds": [7], "guidance_scale": 3, "num_inference_steps": 25},
    ]
    items = items_of(content)
    assert [(item.entry, item.prompt, item.seed, item.guidance_scale) for item in items] == [
        ("one", "cat", 1, 8),
        ("one", "cat", 2, 8),
        ("one", "dog", 1, 8),
        ("one", "dog", 2, 8),
        ("two", "cat", 7, 3),
    ]
    assert {item.fps for item in items} == {12}
    assert len({item.digest for item in items}) == 5


def test_an_entry_can_name_the_default_against_the_catalog(content):
    content |= {"num_frames": 8}
    content["entries"][0] |= {"num_frames": 16}
    assert items_of(content)[0].num_frames == 16


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": ["a dog"]},
        {"negative_prompt": "grey"},
        {"seeds": [1]},
        {"num_inference_steps": 24},
        {"guidance_scale": 7.5},
        {"width": 256},
        {"height": 256},
        {"num_frames": 8},
        {"fps": 10},
    ],
)
def test_each_setting_decides_the_digest(content, change):
    assert digest_of(content, **change) != digest_of(content)


def test_weights_decide_the_digest_by_content(content, files, tmp_path):
    a, b = (str(files / f"{name}.safetensors") for name in "ab")
    variants = [
        {},
        {"checkpoint": a},
        {"checkpoint": b},
        {"loras": [{"path": a}]},
        {"loras": [{"path": a, "scale": 0.5}]},
        {"loras": [{"path": a}, {"path": b}]},
        {"loras": [{"path": b}, {"path": a}]},
        {"domain_adapter": {"path": a}},
        {"motion_loras": [{"path": a}]},
        {"embeddings": [{"path": a, "token": "x"}]},
        {"embeddings": [{"path": a, "token": "y"}]},
        {"embeddings": [{"path": b, "token": "y"}]},
    ]
    assert len({digest_of(content, **variant) for variant in variants}) == len(variants)
    shutil.copy(a, tmp_path / "renamed.safetensors")
    assert digest_of(content, checkpoint=str(tmp_path / "renamed.safetensors")) == digest_of(content, checkpoint=a)


def test_base_motion_module_schedule_and_version_decide_the_digest(content, files, tmp_path, monkeypatch):
    before = digest_of(content)
    base = shutil.copytree(files / "base", tmp_path / "base")
    assert digest_of(content | {"base": str(base)}) == before
    vocabulary = base / "tokenizer" / "merges.txt"
    vocabulary.write_text(vocabulary.read_text() + "x y\n")
    assert digest_of(content | {"base": str(base)}) != before
    assert digest_of(content | {"motion_module": str(files / "a.safetensors")}) != before
    assert digest_of(content | {"noise_schedule": {"beta_end": 0.02}}) != before
    monkeypatch.setattr(catalogs, "RENDER_VERSION", 99)
    assert digest_of(content) != before


def test_nothing_else_decides_the_digest(content):
    before = digest_of(content)
    assert digest_of(content, name="another") == before
    assert digest_of(content, prompts=["a cat"], seeds=[0]) == before
    content["entries"].append({"name": "two", "prompts": ["a dog"]})
    assert items_of(content)[0].digest == before


def test_local_paths_become_absolute(content, files, monkeypatch):
    monkeypatch.chdir(files)
    catalog = Catalog.model_validate(content | {"base": "base", "motion_module": "motion.safetensors"})
    assert catalog.base == str(files / "base")
    assert Catalog.model_validate(content | {"base": "owner/model"}).base == "owner/model"
