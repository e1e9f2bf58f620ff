"""Catalogs: what they expand to, and what decides a digest."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.catalog import catalog as catalogs
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.item import Item
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from tests.support_base import build_base


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
    return expand(Catalog.model_validate(content)).items


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
        {"sampler": "euler"},
        {"timestep_spacing": "trailing"},
        {"guidance_rescale": 0.7},
        {"guidance_interval": {"end": 0.5}},
        {"guidance_interval": {"end": 0.5}, "guidance_after_every": 2},
        {"guidance_every": 2},
        {"deep_cache": {}},
        {"deep_cache": {"layers": 2}},
        {"clip_skip": 1},
        {"context": {}},
        {"context": {"length": 8}},
        {"loop": True},
        {"init_image": "s3://nowhere/a.png"},
        {"init_video": "s3://nowhere/a.mp4"},
        {"strength": 0.5},
        {"free_init": {}},
        {"free_init": {"iterations": 2}},
        {"second_pass": {}},
        {"second_pass": {"of": "frames"}},
        {"prompts": [{"prompt": "a cat", "width": 256}]},
    ],
)
def test_each_setting_decides_the_digest(content, change):
    assert digest_of(content, **change) != digest_of(content)


def test_a_travel_decides_the_digest_where_there_is_another_text_to_go_to(content):
    travel = {"travel": {"dwell": 0.5}}
    assert digest_of(content, **travel) == digest_of(content)
    prompts = {"prompts": [{"prompt": {0: "a cat", 4: "a dog"}}]}
    assert digest_of(content, **prompts, **travel) != digest_of(content, **prompts)
    negative = {"negative_prompt": {0: "grey", 4: "red"}}
    assert digest_of(content, **negative, **travel) != digest_of(content, **negative)


def test_weights_decide_the_digest_by_content(content, files, tmp_path):
    a, b = (str(files / f"{name}.safetensors") for name in "ab")
    variants = [
        {},
        {"checkpoint": a},
        {"checkpoint": b},
        {"vae": a},
        {"checkpoint": b, "vae": a},
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


@pytest.mark.parametrize("field", ["init_image", "init_video"])
def test_pictures_and_videos_decide_the_digest_by_content(content, tmp_path, field):
    for name, data in (("a", b"one"), ("same", b"one"), ("b", b"two")):
        (tmp_path / name).write_bytes(data)
    a, same, b = (digest_of(content, **{field: str(tmp_path / name)}) for name in ("a", "same", "b"))
    assert a == same != b
    assert digest_of(content, prompts=[{"prompt": "a cat", field: str(tmp_path / "a")}]) == a
    (tmp_path / "a").write_bytes(b"two")
    assert digest_of(content, **{field: str(tmp_path / "a")}) == b
    missing = digest_of(content, **{field: str(tmp_path / "c")})
    assert missing not in (a, b)
    assert digest_of(content, **{field: str(tmp_path / "d")}) != missing


def test_a_picture_is_not_a_video_of_the_same_bytes(content, tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    image, video = (digest_of(content, **{name: str(tmp_path / "a")}) for name in ("init_image", "init_video"))
    assert image != video


def test_a_default_that_is_written_out_is_the_default(content):
    plain = {"init_image": None, "init_video": None, "strength": 0.8, "free_init": None, "second_pass": None}
    assert digest_of(content, **plain) == digest_of(content)


def test_the_size_that_is_written_is_that_of_the_second_pass(content):
    content |= {"width": 64, "height": 48}
    (item,) = items_of(content)
    assert (item.output_width, item.output_height) == (64, 48)
    (item,) = items_of(content | {"second_pass": {"scale": 1.5}})
    assert (item.width, item.output_width, item.output_height) == (64, 96, 72)


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
    assert digest_of(content, priority=5) == before
    content["entries"].append({"name": "two", "prompts": ["a dog"]})
    assert items_of(content)[0].digest == before


def test_the_nearest_setting_counts(content):
    content |= {"prompts": ["x", {"prompt": "y", "width": 8, "seeds": [1, 2]}], "width": 16, "height": 16, "seeds": [5]}
    content["entries"] = [{"name": "one", "height": 24}, {"name": "two", "width": 32, "prompts": ["z"]}]
    found = [(item.entry, item.prompt, item.width, item.height, item.seed) for item in items_of(content)]
    assert found == [
        ("one", "x", 16, 24, 5),
        ("one", "y", 8, 24, 1),
        ("one", "y", 8, 24, 2),
        ("two", "z", 32, 16, 5),
    ]


def test_entries_may_have_their_own_base_and_motion_module(content, files, tmp_path):
    base = str(shutil.copytree(files / "base", tmp_path / "base"))
    other = str(files / "a.safetensors")
    content["entries"] += [
        {"name": "two", "prompts": ["a cat"], "base": base},
        {"name": "three", "prompts": ["a cat"], "motion_module": other},
    ]
    plan = expand(Catalog.model_validate(content))
    one, two, three = plan.items
    assert one.digest == two.digest != three.digest
    assert one.model == two.model != three.model
    assert plan.models[three.model].motion_module == other
    del content["base"]
    with pytest.raises(UserError, match="there is no base: name one in the entry or for the whole catalog"):
        expand(Catalog.model_validate(content))


def test_a_plan_says_what_each_model_consists_of(content, files):
    a = str(files / "a.safetensors")
    content["entries"][0] |= {"loras": [{"path": a}], "embeddings": [{"path": a}]}
    plan = expand(Catalog.model_validate(content), content_hash=lambda uri: f"hash of {uri}")
    ((key, hashes),) = plan.file_hashes.items()
    assert plan.items[0].model == key
    uris = (content["base"], content["motion_module"], a)
    assert hashes == {uri: f"hash of {uri}" for uri in uris}
    assert [lora.path for lora in plan.models[key].loras] == [a]


def test_a_plan_says_what_the_networks_are_that_its_settings_name(content, files, tmp_path):
    a, picture = str(files / "a.safetensors"), str(tmp_path / "a.png")
    encoder = tmp_path / "encoder" / "image_encoder"
    encoder.mkdir(parents=True)
    (encoder / "config.json").write_text("{}")
    content["entries"][0] |= {
        "controls": [{"net": a, "pictures": picture}, {"net": "gone.pt", "pictures": picture}],
        "images": [{"adapter": "s3://user:secret@b/x.bin", "pictures": picture}],
        "image_encoder": str(encoder.parent),
    }

    def content_hash(uri):
        if "secret" in uri:
            raise UserError("it cannot be read")
        return f"hash of {uri}"

    plan = expand(Catalog.model_validate(content), content_hash=content_hash)
    assert len(plan.network_hashes) == 4
    assert plan.network_hashes[a] == f"hash of {a}"
    assert plan.network_hashes[str(encoder.parent)] == f"hash of {encoder}"
    assert plan.network_hashes["gone.pt"] == "gone.pt"
    assert "secret" not in str(plan.network_hashes)


def test_invalid_items_are_nobody_elses(content):
    content["entries"] = [
        {"name": "good", "prompts": ["a cat", "a dog"], "priority": 3},
        {"name": "../bad", "prompts": ["a cat", "a dog"]},
        {"name": "bare", "prompts": ["a cat"], "base": None},
    ]
    good = items_of(content)[:2]
    plan = expand(Catalog.model_validate(content), problems={1: "its name", (0, 1): "no dogs"})
    assert plan.items[0] == good[0]
    assert plan.items[1].digest != good[1].digest
    assert [plan.invalid.get(item.digest) for item in plan.items] == [None, "no dogs", "its name", "its name", None]
    assert [item.priority for item in plan.items] == [3, 3, 0, 0, 0]


def test_an_invalid_entry_may_lack_its_base(content):
    del content["base"]
    plan = expand(Catalog.model_validate(content), problems={0: "there is no base"})
    assert plan.invalid == {plan.items[0].digest: "there is no base"}
    assert plan.models == {}


def test_a_missing_file_counts_by_its_name(content, files):
    by_name = [digest_of(content, checkpoint=name) for name in ("no.safetensors", "none.safetensors")]
    assert len({*by_name, digest_of(content)}) == 3


def test_items_can_be_written_and_read(content):
    content["entries"][0] |= {"context": {"length": 8, "overlap": 2}, "loop": True}
    (item,) = items_of(content)
    assert Item.model_validate_json(item.model_dump_json()) == item
    assert item.model_copy(update={"seed": 3}).seed == 3


def test_local_paths_become_absolute(content, files, monkeypatch):
    monkeypatch.chdir(files)
    catalog = Catalog.model_validate(content | {"base": "base", "motion_module": "motion.safetensors"})
    assert catalog.base == str(files / "base")
    assert Catalog.model_validate(content | {"base": "owner/model"}).base == "owner/model"
