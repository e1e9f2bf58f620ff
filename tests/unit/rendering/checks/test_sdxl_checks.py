"""What is told of entries on an SDXL base before anything is rendered."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from animatediff.models.control.sparse_control import SparseControlNet
from animatediff.rendering.catalog.catalog import Catalog
from animatediff.rendering.checks.catalog import check
from animatediff.weights.base import load_unet
from animatediff.weights.controls import sparse_control_file
from animatediff.weights.identify.weights_file import identify_uri
from tests.support_base import build_base
from tests.support_sdxl import build_sdxl, write_motion

GOOD = {"name": "good", "prompts": ["a cat"]}
ATTENTION = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl")
    write_motion(folder / "motion.safetensors", build_sdxl(folder / "base"))
    small = build_base(folder / "small")
    sparse_control_file.write(str(folder / "sparse.safetensors"), SparseControlNet(load_unet(str(small)), "scribble"))
    factors = {"lora_down": torch.ones(2, 768), "lora_up": torch.ones(32, 2)}
    save_file({f"{ATTENTION}.{name}.weight": tensor for name, tensor in factors.items()}, folder / "sd1.safetensors")
    save_file({"emb_params": torch.ones(2, 768)}, folder / "word.safetensors")
    vae = shutil.copytree(folder / "base" / "vae", folder / "vae")
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.18215}))
    return folder


def checked(files, **entry):
    """The problems of an entry that is not the only one."""
    content = {
        "base": str(files / "base"),
        "motion_module": str(files / "motion.safetensors"),
        "entries": [{"name": "one", "prompts": ["a cat"], **entry}, GOOD],
    }
    problems = check(Catalog.model_validate(content))
    assert 1 not in problems
    return problems.get(0, "").replace(f"{files}/", "")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({}, ""),
        ({"vae": "base/vae", "checkpoint": "base", "clip_skip": 2}, ""),
        (
            {"clip_skip": 3},
            "clip_skip 3 leaves nothing of the base's text encoder, which has 4 layers: set at most 2",
        ),
        (
            {"loras": "sd1.safetensors"},
            "loras: sd1.safetensors is a Stable Diffusion 1.x LoRA, the base is SDXL: use it with a Stable Diffusion "
            "1.x base",
        ),
        (
            {"embeddings": "word.safetensors", "prompts": ["a word"]},
            "embeddings: word.safetensors is a Stable Diffusion 1.x textual inversion, the base is SDXL: use it with a "
            "Stable Diffusion 1.x base; or, if it is the first half of a pair for SDXL, save both halves in one file, "
            "as clip_l and clip_g",
        ),
        (
            {"vae": "vae"},
            "vae: VAE vae is Stable Diffusion 1.x's, as its scaling_factor 0.18215 says: take one of the base's kind",
        ),
        (
            {"controls": "sparse.safetensors"},
            "controls.0: base base cannot carry a SparseCtrl encoder: SparseCtrl encoders are made for Stable "
            "Diffusion 1.x, this base is SDXL",
        ),
        ({"base": "small"}, "motion module motion.safetensors was made for another architecture than small: "),
    ],
)
def test_what_does_not_go_with_the_base_is_told(files, entry, problem):
    entry = dict(entry)
    for field in ("vae", "checkpoint", "base"):
        if field in entry:
            entry[field] = str(files / entry[field])
    for field in ("loras", "embeddings"):
        if field in entry:
            entry[field] = [{"path": str(files / entry[field])}]
    if "controls" in entry:
        picture = files / "picture.png"
        Image.new("RGB", (8, 8)).save(picture)
        entry["controls"] = [{"net": str(files / entry["controls"]), "pictures": str(picture)}]
    found = checked(files, **entry)
    assert found.startswith(problem) if problem.endswith(": ") else found == problem


def test_a_base_is_identified_with_what_it_lacks(files, tmp_path):
    base = shutil.copytree(files / "base", tmp_path / "base")
    assert (identify_uri(str(base)).base, identify_uri(str(base)).note) == ("sdxl", None)
    shutil.rmtree(base / "text_encoder_2")
    assert identify_uri(str(base)).note == "no text_encoder_2"


def test_pictures_that_are_too_small_for_the_base_are_warned_of(files, caplog):
    assert checked(files, width=48, height=48) == ""
    assert not caplog.records
    assert checked(files, width=40, height=48) == ""
    assert "is an SDXL model, for pictures of about 64 x 64 pixels: expect poor ones of 40 x 48" in caplog.text


@pytest.mark.parametrize(
    ("config", "changes", "problem"),
    [
        (
            "unet/config.json",
            {"cross_attention_dim": 1280},
            "base other is an SDXL refiner model: take a Stable Diffusion 1.x or SDXL base",
        ),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": "sample"},
            "base other predicts sample, as its scheduler says: take one that predicts epsilon or v_prediction",
        ),
        ("text_encoder_2/config.json", None, "base other has no config.json in its text_encoder_2/: "),
    ],
)
def test_a_base_of_another_kind_is_told(files, config, changes, problem):
    base = shutil.copytree(files / "base", files / "other", dirs_exist_ok=True)
    path = base / config
    if changes is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    found = checked(files, base=str(base))
    assert found.startswith(problem) if problem.endswith(": ") else found == problem
