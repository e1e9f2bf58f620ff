"""ControlNet files: every layout gives the same network, and what cannot be one is refused by name."""

import json
import re
import shutil

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from animatediff.errors import UserError
from animatediff.weights.controls import control_net_file
from animatediff.weights.identify.weights_file import identify_uri
from tests.support_weights import control_net_to_ldm, ldm_file, tiny_sdxl

WEIGHTS = "diffusion_pytorch_model.safetensors"
EMBEDDING = [8, 16, 24, 40]


def tiny_unet(**config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(
            **{
                "block_out_channels": [16, 32, 32, 32],
                "norm_num_groups": 4,
                "cross_attention_dim": 24,
                "attention_head_dim": 2,
            }
            | config
        )


def tiny_net(unet):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=EMBEDDING, load_weights_from_unet=False
        )
        for name, parameter in net.named_parameters():
            if name.startswith("controlnet_"):
                nn.init.normal_(parameter)
    return net


@pytest.fixture(scope="module")
def unet():
    return tiny_unet()


@pytest.fixture(scope="module")
def net(unet):
    return tiny_net(unet)


@pytest.fixture(scope="module")
def state(net):
    """In half precision, as files are."""
    return {name: tensor.half() for name, tensor in net.state_dict().items()}


def ldm(state, prefix="control_model."):
    return {prefix + control_net_to_ldm(name): tensor for name, tensor in state.items()}


def write(path, tensors, metadata=None):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return str(path)


def open_net(uri, unet, **options):
    return control_net_file.open_file(uri, dict(unet.config), **options)


def assert_is(network, state):
    """The network has these weights; the embedding of pictures lies beside the rest."""
    embedding = "controlnet_cond_embedding."
    found = {f"{embedding}{name}": tensor for name, tensor in network.embedding.state_dict().items()}
    found |= network.net.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].float()), name


def whole_checkpoint(state, unet):
    """As the first ControlNets were published: with the model around it."""
    rest = {"unet": unet.state_dict(), "text_encoder": {"text_model.final_layer_norm.bias": torch.ones(24)}}
    return ldm(state) | ldm_file(rest) | {"alphas_cumprod": torch.ones(1000)}


LAYOUTS = {
    "original": lambda state, unet: ldm(state),
    "without prefix": lambda state, unet: ldm(state, ""),
    "whole checkpoint": whole_checkpoint,
    "diffusers": lambda state, unet: state,
    "diffusers in a pipeline": lambda state, unet: {f"controlnet.{name}": tensor for name, tensor in state.items()},
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_every_tensor(tmp_path, unet, state, layout, suffix):
    tensors = LAYOUTS[layout](state, unet)
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": tensors}, path)
    else:
        write(path, tensors)
    network = open_net(str(path), unet).build()
    assert_is(network, state)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    config = network.net.config
    assert (config.norm_num_groups, config.attention_head_dim) == (4, 2)  # which nothing in the file tells
    found = identify_uri(str(path))
    assert (found.family, found.version) == ("controlnet", "ControlNet")
    assert found.layout == ("diffusers" if "diffusers" in layout else "ldm")
    assert found.note == ("with a checkpoint around it, which is not read" if layout == "whole checkpoint" else None)
    assert found.parameters == sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize("pools", [True, False])
def test_a_diffusers_folder_has_its_config(tmp_path, unet, net, pools):
    net.register_to_config(global_pool_conditions=pools)
    net.save_pretrained(tmp_path / "net")
    file = open_net(str(tmp_path / "net"), unet)
    assert_is(file.build(), net.state_dict())
    assert file.build().global_pool_conditions is pools
    # What the user says goes before what the config says.
    assert open_net(str(tmp_path / "net"), unet, global_pool_conditions=not pools).global_pool_conditions is not pools
    assert identify_uri(str(tmp_path / "net")).family == "controlnet"


def test_only_the_user_says_of_a_file_that_its_residuals_are_pooled(tmp_path, unet, state, caplog):
    uri = write(tmp_path / "control_v11e_sd15_shuffle.safetensors", ldm(state))
    assert open_net(uri, unet, global_pool_conditions=True).build().global_pool_conditions
    assert not open_net(uri, unet, global_pool_conditions=False).build().global_pool_conditions
    assert not caplog.records
    assert not open_net(uri, unet).build().global_pool_conditions
    assert [record.message for record in caplog.records] == [
        f"{uri}: if it is a shuffle ControlNet, say global_pool_conditions: true, no file tells"
    ]


def test_the_full_size_network_of_stable_diffusion_is_read(tmp_path, monkeypatch):
    """Names and shapes of the published ones, 361,279,120 parameters; the numbers are one, seen many times."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        wanted = ControlNetModel.from_unet(unet, load_weights_from_unet=False).state_dict()
    tensors = {name: torch.zeros(1, dtype=torch.float16).expand(tensor.shape) for name, tensor in wanted.items()}
    file = control_net_file.TensorFile("x", ldm(tensors))
    monkeypatch.setattr(control_net_file, "open_tensors", lambda uri: file)
    monkeypatch.setattr(control_net_file, "local_copy", lambda uri: tmp_path / "x")
    found = open_net("x", unet)
    assert sum(tensor.numel() for tensor in found.state.values()) == 361_279_120
    assert found.config["conditioning_embedding_out_channels"] == [16, 32, 96, 256]


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_net_of_sdxl_is_read(tmp_path, layout, unet):
    xl = tiny_sdxl()["unet"]
    state = tiny_net(xl).state_dict()
    uri = write(tmp_path / "net.safetensors", LAYOUTS[layout](state, xl))
    assert_is(open_net(uri, xl).build(), state)
    with pytest.raises(UserError, match="is an SDXL ControlNet, the base is Stable Diffusion 1.x"):
        open_net(uri, unet)


OTHER_KINDS = {
    "difference": (
        lambda state: ldm(state) | {"difference": torch.zeros(1)},
        "ControlNet difference, which is not read: take the whole ControlNet",
    ),
    "Control-LoRA": (
        lambda state: {
            "lora_controlnet": torch.zeros(1),
            "input_blocks.4.1.transformer_blocks.0.attn2.to_k.down": torch.zeros(128, 768),
        },
        "Control-LoRA, which is not read",
    ),
    "LLLite": (
        lambda state: {"lllite_unet_input_blocks_4_1.down.0.weight": torch.zeros(8, 8)},
        "ControlNet-LLLite, which is not read",
    ),
    "union": (
        lambda state: state | {"task_embedding": torch.zeros(6, 320)},
        "ControlNet union, which is not read",
    ),
    "XS": (
        lambda state: state | {"down_blocks.0.base_to_ctrl.0.weight": torch.zeros(8, 8, 1, 1)},
        "ControlNet-XS, which is not read",
    ),
    "SparseCtrl": (
        lambda state: state | {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": torch.zeros(8)},
        "SparseCtrl encoder (scribble), not a ControlNet",
    ),
    "checkpoint": (lambda state: ldm_file({"unet": tiny_unet().state_dict()}), "checkpoint, not a ControlNet"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_refused_by_name(tmp_path, unet, state, kind):
    tensors, message = OTHER_KINDS[kind]
    uri = write(tmp_path / "net.safetensors", tensors(state))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        open_net(uri, unet)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize(
    "name",
    ["conv_in.weight", "controlnet_mid_block.bias", "controlnet_down_blocks.11.weight"]
    + [f"controlnet_cond_embedding.{layer}.weight" for layer in ("conv_in", "blocks.3", "conv_out")],
)
def test_what_is_missing_is_named(tmp_path, unet, state, layout, name):
    rest = {other: tensor for other, tensor in state.items() if other != name}
    uri = write(tmp_path / "net.safetensors", LAYOUTS[layout](rest, unet))
    with pytest.raises(UserError, match=rf"ControlNet {re.escape(uri)} lacks {re.escape(name)}") as caught:
        open_net(uri, unet)
    assert control_net_to_ldm(name) in str(caught.value) or layout == "diffusers"


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_what_does_not_fit_is_named(tmp_path, unet, state, layout):
    name = "down_blocks.1.resnets.0.conv1.weight"
    for changed, message in (
        ({name: torch.zeros(32, 16, 5, 5)}, rf"{re.escape(name)} is \[32, 16, 5, 5\], not \[32, 16, 3, 3\]"),
        ({name: torch.zeros(32, 16, 3, 3, dtype=torch.int8)}, "quantised weights are not read"),
        ({"down_blocks.7.resnets.0.conv1.weight": torch.zeros(1)}, "which the base has not"),
    ):
        uri = write(tmp_path / "net.safetensors", LAYOUTS[layout](state | changed, unet))
        with pytest.raises(UserError, match=message):
            open_net(uri, unet)


def test_a_net_of_another_base_is_refused(tmp_path, unet, net, state):
    file = write(tmp_path / "net.safetensors", ldm(state))
    net.save_pretrained(tmp_path / "net")
    wide, short = tiny_unet(block_out_channels=[16, 32, 32, 64]), tiny_unet(layers_per_block=1)
    with pytest.raises(UserError, match=r"does not fit the base: .* is \[32, 32, 3, 3\], not \[64, 32, 3, 3\]"):
        open_net(file, wide)
    with pytest.raises(UserError, match=r"made for a base whose block_out_channels is \[16, 32, 32, 32\], not \[16"):
        open_net(str(tmp_path / "net"), wide)
    with pytest.raises(UserError, match="it was not made from this base's architecture"):
        open_net(file, short)
    with pytest.raises(UserError, match="made for a base whose layers_per_block is 2, not 1"):
        open_net(str(tmp_path / "net"), short)


def test_a_broken_folder_or_number_is_one_line(tmp_path, unet, net, state):
    net.save_pretrained(tmp_path / "net")
    broken = {**state, "conv_in.bias": torch.full((16,), float("nan"))}
    with pytest.raises(UserError, match="conv_in.bias has NaN or infinite values"):
        open_net(write(tmp_path / "nan.safetensors", broken), unet).build()
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    for changed, message in (
        ({"block_out_channels": [1 << 20] * 4}, "block_out_channels is"),
        ({"conditioning_embedding_out_channels": [1 << 20] * 4}, "asks for more than"),
        ({"class_embed_type": "timestep"}, "it has class_embed_type timestep|lacks class_embedding"),
        ({"controlnet_conditioning_channel_order": "hsv"}, "channel_order hsv"),
    ):
        (tmp_path / "net" / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(UserError, match=message) as caught:
            open_net(str(tmp_path / "net"), unet)
        assert "\n" not in str(caught.value)
    (tmp_path / "net" / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"has no {WEIGHTS}"):
        open_net(str(tmp_path / "net"), unet)
    shutil.move(tmp_path / "net", tmp_path / "pipeline" / "controlnet")
    with pytest.raises(UserError, match="name the controlnet folder in it"):
        open_net(str(tmp_path / "pipeline"), unet)
    with pytest.raises(UserError, match="there is no file or folder"):
        open_net(str(tmp_path / "nothing"), unet)


def test_opening_reads_no_weight(tmp_path, unet, state):
    uri = write(tmp_path / "net.safetensors", ldm(state))
    file = open_net(uri, unet)
    assert all(tensor.dtype == torch.float16 for tensor in file.state.values())
    network = file.build()
    save_file({"other": torch.ones(1)}, tmp_path / "other.safetensors")
    shutil.copyfile(tmp_path / "other.safetensors", uri)  # the built one has its own memory
    assert_is(network, state)
    assert load_file(uri).keys() == {"other"}
