"""SparseCtrl files in the layouts that users have: read exactly, or refused by name."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.control.sparse_control import SparseControlNet
from animatediff.weights.controls import sparse_control_file
from animatediff.weights.identify.messages import name
from animatediff.weights.identify.weights_file import identify_uri
from animatediff.weights.layouts import motion as layouts
from animatediff.weights.layouts.architectures import CONFIGS
from tests.unit.models.control import golden

BASE = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}


@pytest.fixture(scope="module", params=["rgb", "scribble"])
def network(request):
    torch.manual_seed(0)
    found = SparseControlNet(UNet2DConditionModel(**BASE), request.param).eval()
    for weight in found.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.1)
    return found


def same(network, uri, base=BASE):
    """Whether a file holds a network's weights, and nothing else."""
    built = sparse_control_file.open_file(uri).build(base)
    wanted, given = network.state_dict(), built.state_dict()
    return list(wanted) == list(given) and all(torch.equal(wanted[name], given[name]) for name in wanted)


def table():
    return torch.zeros(1, 32, 32)


PE = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
LAYOUTS = {
    "bare": lambda state: state,
    "with tables": lambda state: state | {PE: table()},
    "in controlnet": lambda state: {"controlnet": state, "epoch": 3},
    "in state_dict, of DDP": lambda state: {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "global_step": 7,
    },
    "with the trainer's config": lambda state: state | {"animatediff_config": {"motion": {"layers": 2}, "name": "a"}},
    "with a prefix": lambda state: {f"model.controlnet.{name}": tensor for name, tensor in state.items()},
    "diffusers": lambda state: {layouts.from_official(name, "diffusers"): tensor for name, tensor in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(network, tmp_path, layout):
    path = tmp_path / "net.ckpt"
    torch.save(LAYOUTS[layout](dict(network.state_dict())), path)
    found = sparse_control_file.open_file(str(path))
    assert (found.variant, found.layout) == (network.variant, "diffusers" if layout == "diffusers" else "official")
    assert same(network, str(path))


def test_a_folder_of_diffusers(network, tmp_path):
    state = LAYOUTS["diffusers"](dict(network.state_dict()))
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    config = {"motion_max_seq_length": 24, "motion_num_attention_heads": 4, "norm_num_groups": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = sparse_control_file.open_file(str(tmp_path))
    assert (found.motion.max_frames, found.motion.num_heads, found.motion.norm_num_groups) == (24, 4, 8)
    assert same(network, str(tmp_path))


def test_diffusers_own_network(tmp_path):
    from diffusers import SparseControlNetModel

    torch.manual_seed(0)
    small = {"block_out_channels": (32, 32, 64, 64), "norm_num_groups": 8, "cross_attention_dim": 24}
    theirs = SparseControlNetModel(**small, attention_head_dim=8)
    theirs.save_pretrained(tmp_path)
    ours = sparse_control_file.open_file(str(tmp_path)).build(CONFIGS["sd1"]["unet"] | small)
    assert ours.motion_config.norm_num_groups == 8
    theirs_state = {name: t for name, t in theirs.state_dict().items() if not name.endswith(".pe")}
    assert {layouts.from_official(name, "diffusers") for name in ours.state_dict()} == set(theirs_state)


def test_half_precision_is_written_and_read(network, tmp_path):
    path = str(tmp_path / "half.safetensors")
    half = sparse_control_file.open_file(_written(network, tmp_path)).build(BASE).half()
    sparse_control_file.write(path, half)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    assert same(half.float(), path)


def test_another_motion_module_is_kept(tmp_path):
    motion = MotionConfig(num_layers=1, num_heads=4, norm_num_groups=16, max_frames=48)
    found = SparseControlNet(UNet2DConditionModel(**BASE), "rgb", motion)
    path = _written(found, tmp_path)
    assert sparse_control_file.open_file(path).motion == motion
    assert same(found, path)


def _written(network, folder):
    path = str(folder / "net.safetensors")
    sparse_control_file.write(path, network)
    return path


def _without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


FAULTS = {
    "missing": (_without("controlnet_down_blocks.1.bias"), BASE, "controlnet_down_blocks.1.bias is missing"),
    "too much": (lambda s: s | {"up_blocks.0.a": torch.ones(1)}, BASE, "up_blocks.0.a belongs to none"),
    "another shape": (
        lambda s: s | {"controlnet_mid_block.bias": torch.ones(3)},
        BASE,
        r"controlnet_mid_block.bias is \[3\], not \[64\]",
    ),
    "whole numbers": (
        lambda s: s | {"conv_in.bias": torch.ones(32, dtype=torch.int64)},
        BASE,
        "conv_in.bias holds int64, not weights",
    ),
    "another base": (lambda s: s, BASE | {"block_out_channels": (32, 32)}, "for blocks of 32, 64 channels, the base's"),
    "an SDXL base": (lambda s: s, CONFIGS["sdxl"]["unet"], "Stable Diffusion 1.x, this base is SDXL"),
    "broken": (lambda s: s | {"conv_in.bias": torch.full((32,), torch.nan)}, BASE, "NaN or infinite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(network, tmp_path, fault):
    change, base, message = FAULTS[fault]
    path = tmp_path / "net.safetensors"
    save_file(change(dict(network.state_dict())), path)
    with pytest.raises(UserError, match=message):
        sparse_control_file.open_file(str(path)).build(base)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file({"lora_unet_a.lora_down.weight": torch.ones(4, 8), "lora_unet_a.lora_up.weight": torch.ones(8, 4)}, path)
    with pytest.raises(UserError, match=r"is a LoRA, not a SparseCtrl encoder: give it as `loras:`"):
        sparse_control_file.open_file(str(path))


def test_it_is_identified(network, tmp_path):
    found = identify_uri(_written(network, tmp_path))
    assert (found.family, found.version, found.layout) == ("sparse_control", network.variant, "official")
    assert (found.base, found.text_width) == (None, 24)
    assert name(found) == f"a SparseCtrl encoder ({network.variant})"


@pytest.mark.parametrize(("variant", "parameters"), [("rgb", 496_730_880), ("scribble", 497_802_784)])
def test_the_published_size(variant, parameters):
    with torch.device("meta"):
        found = SparseControlNet(UNet2DConditionModel(**CONFIGS["sd1"]["unet"]), variant)
    assert sum(weight.numel() for weight in found.parameters()) == parameters
    assert len(found.state_dict()) == {"rgb": 478, "scribble": 492}[variant]


def test_the_reference_s_own_names(tmp_path):
    found = golden.read("sparsectrl_rgb")
    path = tmp_path / "net.safetensors"
    save_file(found.network(), path)
    built = sparse_control_file.open_file(str(path)).build(found.base_config)
    names = {name.removeprefix("controlnet.") for name in found.network()}
    assert {name for name in names if not name.endswith(".pe")} == set(built.state_dict())
