"""Catalog checks: every fault is told, with its entry and its remedy, before anything is rendered."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import save_file

from animatediff.errors import UsageError, UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering import checks
from animatediff.rendering.catalog import Catalog
from animatediff.rendering.checks import check
from animatediff.sprites.base import build_base
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEMPORAL = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"


def pair(name, down="lora_down", up="lora_up", into=32):
    return {f"{name}.{down}.weight": torch.ones(2, into), f"{name}.{up}.weight": torch.ones(32, 2)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, a motion module for it, and one file of every family that a catalog takes."""
    folder = tmp_path_factory.mktemp("weights")
    unet = load_unet(str(build_base(folder / "base")))
    motion_modules.write(str(folder / "motion.safetensors"), MotionModules.for_base(unet, MotionConfig()))
    key = "lora_unet_" + ATTENTION.replace(".", "_")
    save_file(pair(f"{key}_to_q"), folder / "lora.safetensors")
    save_file(pair(f"{key.replace('attn1', 'attn2')}_to_k", into=2048), folder / "sdxl.safetensors")
    save_file(pair(f"{TEMPORAL}.processor.to_q_lora", "down", "up"), folder / "motion_lora.safetensors")
    save_file(pair(f"{key}_to_q") | {f"{key}_to_q.dora_scale": torch.ones(1, 32)}, folder / "dora.safetensors")
    save_file({"emb_params": torch.ones(2, 32)}, folder / "sks.safetensors")
    (folder / "broken.safetensors").write_bytes(b"broken")
    return folder


@pytest.fixture
def content(files):
    return {
        "base": str(files / "base"),
        "motion_module": str(files / "motion.safetensors"),
        "entries": [{"name": "one", "prompts": ["a cat"]}],
    }


def checked(content, **entry):
    check(Catalog.model_validate(content | {"entries": [content["entries"][0] | entry]}))


def test_all_faults_are_told_at_once(content):
    content["entries"] = [
        {
            "name": "a",
            "prompts": ["x"],
            "checkpoint": "no/model.safetensors",
            "loras": [{"path": "no/lora.safetensors"}],
        },
        {"name": "a", "prompts": ["x"], "width": 100, "num_frames": 64},
        {"name": "../b", "prompts": ["x"]},
    ]
    with pytest.raises(UserError) as caught:
        check(Catalog.model_validate(content))
    message = str(caught.value)
    assert message.startswith("the catalog has 6 problems: ")
    for fault in (
        "2 entries are named 'a'",
        "entry '../b': use letters",
        "entry 'a': there is no file or folder no/model.safetensors",
        "entry 'a': there is no file or folder no/lora.safetensors",
        "width 100 is no multiple of 8, use 96",
        "the motion module takes at most 32 frames, not 64",
    ):
        assert fault in message
    assert "\n" not in message


def test_a_missing_base_or_motion_module_does_not_hide_missing_files(content):
    content["entries"][0]["checkpoint"] = "no.safetensors"
    for missing in ("base", "motion_module"):
        with pytest.raises(UserError, match=r"2 problems: entry 'one'.*no.safetensors; .*/nowhere"):
            check(Catalog.model_validate(content | {missing: "/nowhere"}))


def test_a_motion_module_of_another_architecture_is_refused(content, tmp_path):
    config = MotionConfig()
    small = MotionModules(config, down=[[32] * 2] * 4, mid=32, up=[[32] * 3] * 4)
    motion_modules.write(str(tmp_path / "small.safetensors"), small)
    with pytest.raises(UserError, match="was made for another architecture"):
        check(Catalog.model_validate(content | {"motion_module": str(tmp_path / "small.safetensors")}))


def test_a_typo_names_the_field(content, tmp_path):
    content["entries"][0]["guidance"] = 7
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=r"unknown field 'entries.0.guidance', did you mean 'guidance_scale'"):
        checks.read(str(path))


def test_every_family_in_its_place_passes(content, files):
    lora, motion_lora = ({"path": str(files / f"{name}.safetensors")} for name in ("lora", "motion_lora"))
    embedding = {"path": str(files / "sks.safetensors")}
    checked(content, checkpoint=str(files / "base"), loras=[lora], domain_adapter=lora, motion_loras=[motion_lora])
    checked(content, prompts=["a SKS cat"], embeddings=[embedding])
    checked(content, negative_prompt="ugly, sks", embeddings=[embedding])
    checked(content, prompts=["a <toy> cat"], embeddings=[embedding | {"token": "<toy>"}])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"loras": ["motion_lora"]}, "motion_lora.safetensors is a MotionLoRA.*give it as `motion_loras:`"),
        ({"motion_loras": ["lora"]}, "lora.safetensors is a LoRA, not a MotionLoRA: give it as `loras:`"),
        ({"domain_adapter": "sks"}, "sks.safetensors is .*textual inversion.*`embeddings:`"),
        ({"embeddings": ["lora"]}, "lora.safetensors is a LoRA.*`loras:`"),
        ({"loras": ["dora"]}, "dora.safetensors is of the kind DoRA, which is not applied"),
        ({"checkpoint": "motion"}, "motion.safetensors is .*motion module.*`motion_module:`"),
        ({"loras": ["sdxl"]}, "sdxl.safetensors is an SDXL LoRA, the base is Stable Diffusion 1.x"),
    ],
)
def test_a_file_in_the_wrong_place_is_told_with_the_right_one(content, files, entry, expected):
    ((field, value),) = entry.items()
    paths = [{"path": str(files / f"{name}.safetensors")} for name in ([value] if isinstance(value, str) else value)]
    given = paths if isinstance(value, list) else paths[0]
    with pytest.raises(UserError, match=f"1 problem: entry 'one': .*{expected}"):
        checked(content, **{field: given["path"] if field == "checkpoint" else given})


def test_a_file_that_cannot_be_read_is_left_to_its_items(content, files):
    broken = str(files / "broken.safetensors")
    checked(content, checkpoint=broken, loras=[{"path": broken}], embeddings=[{"path": broken}])


def test_an_embedding_that_no_prompt_uses_is_told(content, files):
    with pytest.raises(UserError, match=r"1 problem: entry 'one': no prompt uses .*sks.safetensors: write 'sks'"):
        checked(content, prompts=["a sksx cat"], embeddings=[{"path": str(files / "sks.safetensors")}])


def test_an_sdxl_base_is_told(content, files, tmp_path):
    base = shutil.copytree(files / "base", tmp_path / "base")
    config = json.loads((base / "unet" / "config.json").read_text())
    config |= {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 2816}
    (base / "unet" / "config.json").write_text(json.dumps(config | {"addition_time_embed_dim": 256}))
    with pytest.raises(UserError, match="is an SDXL model; clips are rendered with"):
        check(Catalog.model_validate(content | {"base": str(base)}))


def test_a_noise_schedule_other_than_the_motion_modules_own_is_warned_of(content, tmp_path, caplog):
    motion = motion_modules.read(content["motion_module"])
    uri = str(tmp_path / "motion.safetensors")
    motion_modules.write(uri, motion, schedule={"beta_end": 0.02})
    for schedule, is_other in ((None, False), ({"beta_end": 0.02}, False), ({}, True), ({"beta_end": 0.012}, True)):
        caplog.clear()
        check(Catalog.model_validate(content | {"motion_module": uri, "noise_schedule": schedule}))
        assert ("is not the one that" in caplog.text) == is_other
    caplog.clear()
    check(Catalog.model_validate(content | {"noise_schedule": {"beta_end": 0.02}}))
    assert "is not the one that" not in caplog.text  # the file does not say
    motion_modules.write(uri, motion, schedule={"beta_schedule": "strange"})
    with pytest.raises(UserError, match="the noise schedule in .* cannot be used"):
        check(Catalog.model_validate(content | {"motion_module": uri}))
