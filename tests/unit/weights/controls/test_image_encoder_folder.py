"""Image encoders as folders, and which adapters they go with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModelWithProjection

from animatediff.errors import UserError
from animatediff.models.image_prompt.ip_adapter import image_tokens
from animatediff.weights.controls import image_encoder_folder, ip_adapter_file
from animatediff.weights.controls.image_encoder_place import find_folder
from animatediff.weights.identify.weights_file import expect_family, identify_uri
from animatediff.weights.reading.tensors import open_tensors
from tests.support_ip_adapter import IMAGE_SIZE, NUM_STATES, build_image_encoder, write_ip_adapter

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_image_encoder(tmp_path_factory.mktemp("built") / "image_encoder")


@pytest.fixture
def folder(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "models" / "image_encoder"))


def weights(folder):
    return load_file(folder / "model.safetensors")


@torch.no_grad()
def test_it_says_what_transformers_says(folder):
    encoder = image_encoder_folder.read(str(folder))
    pixels = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    theirs = CLIPVisionModelWithProjection.from_pretrained(folder)(pixels)
    assert torch.equal(encoder.model(pixels).image_embeds, theirs.image_embeds)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


@pytest.mark.parametrize("inside", [".", "..", "../.."])
def test_it_is_found_in_the_folders_around_it(folder, inside):
    found = find_folder(str((folder / inside).resolve()))
    assert Path(found).samefile(folder)


def test_it_is_known_where_files_are_identified(folder):
    found = identify_uri(str(folder))
    assert (found.family, found.version, found.base) == ("image_encoder", "CLIP vision model", None)
    weights = open_tensors(str(folder / "model.safetensors"))
    with pytest.raises(UserError, match="is an image encoder of IP-Adapters, not a LoRA: give it as `image_encoder:`"):
        expect_family(weights, {"lora"})


def test_pickled_and_half_precision_weights(folder):
    expected, state = image_encoder_folder.read(str(folder)).model.state_dict(), weights(folder)
    (folder / "model.safetensors").unlink()
    constants = {"vision_model.embeddings.position_ids": torch.arange(NUM_STATES)[None]}  # of older transformers
    torch.save(state | constants, folder / "pytorch_model.bin")
    found = image_encoder_folder.read(str(folder)).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    (folder / "pytorch_model.bin").unlink()
    save_file({name: t.half() for name, t in state.items()}, folder / "model.fp16.safetensors", {"format": "pt"})
    found = image_encoder_folder.read(str(folder)).model.state_dict()
    assert all(torch.equal(found[name], tensor.half().float()) for name, tensor in expected.items())


def config_of(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no image encoder: a folder with a config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: config_of(folder, model_type="siglip"), "not that of a CLIP vision model: its model_type is s"),
        (lambda folder: config_of(folder, hidden_size=1 << 16), "its weights files have"),
        (lambda folder: config_of(folder, image_size=-1), "image_size is -1"),
        (lambda folder: config_of(folder, num_hidden_layers=4), "missing keys, such as"),
        (lambda folder: config_of(folder, num_hidden_layers=2), "unexpected keys, such as"),
    ],
    ids=["no config", "no weights", "another model", "too large", "no size", "layers missing", "layers too many"],
)
def test_what_cannot_be_used_is_one_line(folder, change, told):
    change(folder)
    with pytest.raises(UserError) as error:
        image_encoder_folder.read(str(folder))
    assert str(folder) in str(error.value)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("variant", "clip_width", "told"),
    [
        ("base", 1280, r"reads CLIP embeddings of 1280 numbers \(ViT-bigG/14\), .*encoder .* of 1024 .*\(ViT-H/14\)"),
        ("plus", 1664, r"reads CLIP states of 1664 numbers \(ViT-bigG/14\), .*encoder .* of 1280 .*\(ViT-H/14\)"),
    ],
)
def test_an_encoder_of_another_width_is_refused(tmp_path, variant, clip_width, told):
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(32, 32, 64, 64), cross_attention_dim=24)
    adapter = ip_adapter_file.open_file(
        write_ip_adapter(tmp_path / "a.safetensors", unet, variant, clip_width=clip_width)
    )
    uri = build_image_encoder(tmp_path / "e", hidden_size=1280, projection_dim=1024, num_hidden_layers=1)
    with pytest.raises(UserError, match=told) as error:
        image_tokens([PICTURE], adapter, image_encoder_folder.open_folder(uri))
    assert "a.safetensors" in str(error.value)
    assert uri in str(error.value)
