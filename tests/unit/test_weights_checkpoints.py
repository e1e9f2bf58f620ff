"""Personalised checkpoints: what is loaded is what was saved, and what does not fit is named."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from animatediff.errors import UserError
from animatediff.sprites.base import build_base
from animatediff.weights import checkpoints
from animatediff.weights.base import load_text_encoder, load_unet, load_vae

UNET_TO_LDM = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}


def unet_to_ldm(name, layers=2):
    """A diffusers UNet key as the original repository calls it."""
    for new, old in UNET_TOP.items():
        if name.startswith(new + "."):
            return old + name.removeprefix(new)
    match = re.fullmatch(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+?)\.(\d+)\.(.+)", name)
    side, block, kind, layer, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if kind == "resnets":
        first, _, end = rest.partition(".")
        rest = f"{UNET_TO_LDM[first]}.{end}"
    if side == "mid":
        return f"middle_block.{2 * layer if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{(block + 1) * (layers + 1) - 1}.{1 if block == 0 else 2}.{rest}"
    start = 1 if side == "down" else 0
    place = "input" if side == "down" else "output"
    return f"{place}_blocks.{start + block * (layers + 1) + layer}.{int(kind == 'attentions')}.{rest}"


def vae_to_ldm(name, levels=4):
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for new, old in (
        ("down_blocks", "down"),
        ("resnets", "block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
    ):
        name = name.replace(new, old)
    return name


def to_ldm(states):
    """State dicts in diffusers' layout -> one LDM state dict."""
    ldm = {f"model.diffusion_model.{unet_to_ldm(name)}": tensor for name, tensor in states.get("unet", {}).items()}
    for name, tensor in states.get("vae", {}).items():
        key = vae_to_ldm(name)
        is_matrix = "mid.attn_1" in key and tensor.ndim == 2
        ldm[f"first_stage_model.{key}"] = tensor[:, :, None, None] if is_matrix else tensor
    for name, tensor in states.get("text_encoder", {}).items():
        ldm[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    return {name: tensor.contiguous() for name, tensor in ldm.items()}


def modules(base):
    return {"unet": load_unet(base), "vae": load_vae(base), "text_encoder": load_text_encoder(base)[1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def base(folder):
    return modules(str(build_base(folder / "base")))


@pytest.fixture(scope="module")
def other(folder):
    """Another model of the same architecture: its folder and its states."""
    path = build_base(folder / "other", seed=1)
    return path, {part: module.state_dict() for part, module in modules(str(path)).items()}


def assert_same(loaded, expected):
    assert loaded.keys() == expected.keys()
    for part, state in expected.items():
        assert loaded[part].keys() == state.keys()
        assert all(torch.equal(loaded[part][name], tensor) for name, tensor in state.items())


def test_an_ldm_file_gives_every_tensor_back(tmp_path, base, other):
    ldm = to_ldm(other[1])
    ldm["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(ldm, tmp_path / "model.safetensors")
    assert_same(checkpoints.load(str(tmp_path / "model.safetensors"), base), other[1])


def test_an_ldm_file_without_a_vae_gives_the_rest(tmp_path, base, other):
    parts = {part: other[1][part] for part in ("unet", "text_encoder")}
    save_file(to_ldm(parts), tmp_path / "model.safetensors")
    assert_same(checkpoints.load(str(tmp_path / "model.safetensors"), base), parts)


def test_a_diffusers_folder_gives_the_parts_it_has(tmp_path, base, other):
    assert_same(checkpoints.load(str(other[0]), base), other[1])
    shutil.copytree(other[0] / "unet", tmp_path / "partial" / "unet")
    assert_same(checkpoints.load(str(tmp_path / "partial"), base), {"unet": other[1]["unet"]})


def test_what_does_not_fit_is_named(tmp_path, base, other):
    ldm = to_ldm(other[1])
    key = "model.diffusion_model.input_blocks.0.0.bias"
    save_file(ldm | {key: torch.ones(7)}, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"the unet of checkpoint .*wide.*conv_in.bias is \[7\], not \[32\]"):
        checkpoints.load(str(tmp_path / "wide.safetensors"), base)
    del ldm[key]
    save_file(ldm, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match=r"the unet of checkpoint .*short.* lacks conv_in.bias"):
        checkpoints.load(str(tmp_path / "short.safetensors"), base)


def test_files_that_are_no_checkpoints_are_one_line(tmp_path, base):
    save_file({"a": torch.ones(1)}, tmp_path / "nothing.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "old.ckpt").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half" / "unet").mkdir(parents=True)
    for name, expected in (
        ("nothing.safetensors", "no Stable Diffusion weights"),
        ("noise.safetensors", "not a whole safetensors file"),
        ("old.ckpt", "convert it first"),
        ("empty", "no Stable Diffusion weights"),
        ("half", "cannot load checkpoint"),
        ("absent.safetensors", "there is no file"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            checkpoints.load(str(tmp_path / name), base)
        assert "\n" not in str(caught.value)


def test_content_hash_follows_the_weights_only(tmp_path, other):
    copy = shutil.copytree(other[0], tmp_path / "copy")
    before = checkpoints.content_hash(str(other[0]))
    (copy / "README.md").write_text("a model")
    assert checkpoints.content_hash(str(copy)) == before
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert checkpoints.content_hash(str(copy)) != before
