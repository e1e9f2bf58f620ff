"""Personalised checkpoints: what is loaded is what was saved, and what does not fit is named."""

import copy
import hashlib
import json
import re
import resource
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from animatediff import storage
from animatediff.errors import UserError
from animatediff.weights import checkpoints, prediction
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.identify.weights_file import identify_uri
from animatediff.weights.prediction import Prediction
from animatediff.weights.reading import files
from tests.support_base import build_base
from tests.support_weights import ldm_file, tiny_sdxl, vae_file

UNET = "model.diffusion_model."
WEIGHTS = "diffusion_pytorch_model.safetensors"


def modules(base):
    return {"unet": load_unet(base), "vae": load_vae(base), "text_encoder": load_text_encoder(base)[1]}


def states_of(model):
    return {part: module.state_dict() for part, module in model.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def base(folder):
    return modules(str(build_base(folder / "base", layers_per_block=2)))


@pytest.fixture(scope="module")
def other(folder):
    """Another model of the same architecture: its folder and its states."""
    path = build_base(folder / "other", seed=1, layers_per_block=2)
    return path, states_of(modules(str(path)))


@pytest.fixture(scope="module")
def sdxl_base():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def sdxl_other():
    return tiny_sdxl(seed=1)


def assert_same(loaded, expected):
    assert loaded.keys() == expected.keys()
    for part, state in expected.items():
        assert loaded[part].keys() == state.keys()
        for name, tensor in state.items():
            assert loaded[part][name].dtype == tensor.dtype
            assert torch.equal(loaded[part][name], tensor), name


def write(path, tensors, **options):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, **options)
    return str(path)


def mapped_ranges(path):
    """The addresses at which this process has mapped a file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    return [range(*(int(end, 16) for end in line[0].split("-"))) for line in lines]


# --- single files in the original layout ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_ldm_file_gives_every_tensor_back_in_its_precision(tmp_path, base, other, dtype):
    states = {part: {name: t.to(dtype) for name, t in state.items()} for part, state in other[1].items()}
    ldm = ldm_file(states)
    ldm["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    # The sampler's constants and the trainer's loss are no part of the model.
    ldm |= {"betas": torch.ones(1000), "alphas_cumprod": torch.ones(1000), "loss.logvar": torch.ones(1)}
    assert_same(checkpoints.load(write(tmp_path / "model.safetensors", ldm), base), states)


def test_an_sdxl_file_gives_every_tensor_back(tmp_path, sdxl_base, sdxl_other):
    states = states_of(sdxl_other)
    ldm = ldm_file(states, "sdxl")
    uri = write(tmp_path / "model.safetensors", ldm)
    assert_same(checkpoints.load(uri, sdxl_base), states)
    # diffusers' converters read the same file to the same tensors.
    unet, vae = (sdxl_other[part].config for part in ("unet", "vae"))
    second = {"unet": convert_ldm_unet_checkpoint(ldm, unet), "vae": convert_ldm_vae_checkpoint(ldm, vae)}
    assert_same(second, {part: states[part] for part in second})


def test_loading_copies_nothing(tmp_path, sdxl_base, sdxl_other):
    path = tmp_path / "model.safetensors"
    write(path, ldm_file(states_of(sdxl_other), "sdxl"))
    loaded = checkpoints.load(str(path), sdxl_base)
    file = mapped_ranges(path)
    addresses = [tensor.data_ptr() for state in loaded.values() for tensor in state.values()]
    assert all(any(address in part for part in file) for address in addresses)


@pytest.mark.parametrize("missing", ["unet", "vae", "text_encoder"])
def test_a_file_without_a_part_gives_the_rest(tmp_path, base, other, missing):
    parts = {part: state for part, state in other[1].items() if part != missing}
    assert_same(checkpoints.load(write(tmp_path / "model.safetensors", ldm_file(parts)), base), parts)


def test_parts_beside_the_known_ones_are_left_alone(tmp_path, base, other):
    uri = write(tmp_path / "model.safetensors", ldm_file(other[1]))
    assert_same(checkpoints.load(uri, base | {"motion": torch.nn.Linear(1, 1)}), other[1])


def test_a_ckpt_of_the_original_trainer_is_read_without_running_it(tmp_path, base, other, monkeypatch):
    name = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": name})
    for module in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    monkeypatch.setattr(sys.modules[name], "ModelCheckpoint", callback, raising=False)
    content = {
        "state_dict": ldm_file(other[1]),
        "epoch": 3,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {callback: {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    }
    torch.save(content, tmp_path / "model.ckpt")
    monkeypatch.undo()
    assert_same(checkpoints.load(str(tmp_path / "model.ckpt"), base), other[1])


def test_averaged_weights_stand_in_where_the_plain_ones_are_missing(tmp_path, base, other):
    ldm = ldm_file(other[1])
    unet = {name: tensor for name, tensor in ldm.items() if name.startswith(UNET)}
    ema = {"model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1 for name, tensor in unet.items()}
    ema["model_ema.decay"] = torch.tensor(0.9999)
    both = write(tmp_path / "both.safetensors", ldm | ema)
    assert_same(checkpoints.load(both, base), other[1])
    rest = {name: tensor for name, tensor in ldm.items() if name not in unet}
    averaged = {name: tensor + 1 for name, tensor in other[1]["unet"].items()}
    only = write(tmp_path / "only.safetensors", rest | ema)
    assert_same(checkpoints.load(only, base), other[1] | {"unet": averaged})


def test_a_vae_alone_is_read_with_and_without_its_prefix(tmp_path, base, other):
    expected = {"vae": other[1]["vae"]}
    bare = vae_file(other[1]["vae"]) | {"loss.discriminator.main.0.weight": torch.ones(2)}
    assert_same(checkpoints.load(write(tmp_path / "bare.safetensors", bare), base), expected)
    assert_same(checkpoints.load(write(tmp_path / "prefixed.safetensors", ldm_file(expected)), base), expected)


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_a_unet_alone_is_read_without_the_prefix_of_whole_models(tmp_path, base, other, prefix):
    expected = {"unet": other[1]["unet"]}
    file = {prefix + name.removeprefix(UNET): tensor for name, tensor in ldm_file(expected).items()}
    assert_same(checkpoints.load(write(tmp_path / "unet.safetensors", file), base), expected)


def test_a_text_encoder_that_lost_its_text_model_is_read(tmp_path, base, other):
    ldm = {name.replace(".transformer.text_model.", ".transformer."): t for name, t in ldm_file(other[1]).items()}
    assert_same(checkpoints.load(write(tmp_path / "merge.safetensors", ldm), base), other[1])


def test_a_text_encoder_of_an_early_merge_may_have_the_constants_of_another_file(tmp_path, base, other):
    early, current = "cond_stage_model.transformer.", "cond_stage_model.transformer.text_model."
    ldm = {name.replace(current, early): tensor for name, tensor in ldm_file(other[1]).items()}
    for prefix in (early, current):
        file = ldm | {f"{current}embeddings.position_ids": torch.arange(77)[None]}
        file = {name.replace(early, prefix) if "position_ids" not in name else name: t for name, t in file.items()}
        assert_same(checkpoints.load(write(tmp_path / "merge.safetensors", file), base), other[1])
    # Constants alone are no text encoder.
    rest = {name: tensor for name, tensor in ldm.items() if not name.startswith("cond_stage_model.")}
    rest[f"{current}embeddings.position_ids"] = torch.arange(77)[None]
    without = {part: other[1][part] for part in ("unet", "vae")}
    assert_same(checkpoints.load(write(tmp_path / "rest.safetensors", rest), base), without)


def test_what_the_vaes_trainer_left_in_a_model_is_ignored(tmp_path, base, other):
    leftovers = {
        "first_stage_model.loss.logvar": torch.ones(1),
        "first_stage_model.loss.discriminator.main.0.weight": torch.ones(2, 2),
        "first_stage_model.model_ema.decay": torch.tensor(0.9),
        "first_stage_model.model_ema.encoderconv_inweight": torch.ones(3),
    }
    uri = write(tmp_path / "model.safetensors", ldm_file(other[1]) | leftovers)
    assert_same(checkpoints.load(uri, base), other[1])


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_a_text_encoder_may_come_with_clips_projection(tmp_path, base, other, prefix):
    state = {prefix + name.removeprefix("text_model."): tensor for name, tensor in other[1]["text_encoder"].items()}
    file = state | {"text_projection.weight": torch.ones(32, 32), "logit_scale": torch.tensor(4.6)}
    uri = write(tmp_path / "clip_l.safetensors", file)
    assert_same(checkpoints.load(uri, base), {"text_encoder": other[1]["text_encoder"]})


def test_the_second_text_encoders_projection_is_read_and_needed(tmp_path, sdxl_base, sdxl_other):
    state = sdxl_other["text_encoder_2"].state_dict()
    part = write(tmp_path / "clip_g.safetensors", state | {"logit_scale": torch.tensor(4.6)})
    assert_same(checkpoints.load(part, sdxl_base), {"text_encoder_2": state})
    del state["text_projection.weight"]
    with pytest.raises(UserError, match="text_encoder_2 of .* lacks text_projection.weight"):
        checkpoints.load(write(tmp_path / "short.safetensors", state), sdxl_base)


# --- diffusers' files and folders ---


def test_a_diffusers_folder_gives_the_parts_it_has(tmp_path, base, other):
    assert_same(checkpoints.load(str(other[0]), base), other[1])
    shutil.copytree(other[0] / "unet", tmp_path / "partial" / "unet")
    assert_same(checkpoints.load(str(tmp_path / "partial"), base), {"unet": other[1]["unet"]})


def test_one_parts_file_or_folder_is_read(tmp_path, sdxl_base, sdxl_other):
    states = states_of(sdxl_other)
    for part, module in sdxl_other.items():
        module.save_pretrained(tmp_path / part)
        assert_same(checkpoints.load(str(tmp_path / part), sdxl_base), {part: states[part]})
        (file,) = (tmp_path / part).glob("*.safetensors")
        assert_same(checkpoints.load(str(file), sdxl_base), {part: states[part]})


@pytest.mark.parametrize("has_prefix", [True, False])
def test_text_encoders_of_all_versions_of_transformers_are_read(tmp_path, base, other, has_prefix):
    prefix = "text_model." if has_prefix else ""
    state = {prefix + name.removeprefix("text_model."): tensor for name, tensor in other[1]["text_encoder"].items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    (tmp_path / "text_encoder").mkdir()
    write(tmp_path / "text_encoder" / "model.safetensors", state)
    assert_same(checkpoints.load(str(tmp_path), base), {"text_encoder": other[1]["text_encoder"]})


def test_the_old_names_of_a_vaes_attention_are_read(tmp_path, base, other):
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    pattern = re.compile(r"(?<=attentions\.0\.)(to_[qkv]|to_out\.0)")
    old = {pattern.sub(lambda m: old_names[m[1]], name): tensor for name, tensor in other[1]["vae"].items()}
    assert old.keys() != other[1]["vae"].keys()
    uri = write(tmp_path / "vae.safetensors", old)
    assert_same(checkpoints.load(uri, base), {"vae": other[1]["vae"]})


def test_a_vae_under_its_name_in_a_pipeline_is_read(tmp_path, base, other):
    uri = write(tmp_path / "vae.safetensors", {f"vae.{name}": t for name, t in other[1]["vae"].items()})
    assert_same(checkpoints.load(uri, base), {"vae": other[1]["vae"]})
    # A whole model under such names is not taken for its VAE.
    everything = {f"{part}.{name}": tensor for part, state in other[1].items() for name, tensor in state.items()}
    assert_same(checkpoints.load(write(tmp_path / "all.safetensors", everything), base), other[1])


def test_shards_are_put_together(tmp_path, base, other):
    model = modules(str(other[0]))
    model["unet"].save_pretrained(tmp_path / "unet", max_shard_size="400KB")
    model["text_encoder"].save_pretrained(tmp_path / "text_encoder", max_shard_size="40KB")
    assert all(len(list((tmp_path / part).glob("*.safetensors"))) > 1 for part in ("unet", "text_encoder"))
    expected = {part: other[1][part] for part in ("unet", "text_encoder")}
    assert_same(checkpoints.load(str(tmp_path), base), expected)


def test_of_several_files_of_a_part_the_full_safetensors_one_is_taken(tmp_path, base, other):
    state = other[1]["unet"]
    half = {name: tensor.half() for name, tensor in state.items()}
    unet = tmp_path / "unet"
    unet.mkdir()
    torch.save({name: tensor + 2 for name, tensor in half.items()}, unet / "diffusion_pytorch_model.fp16.bin")
    assert_same(checkpoints.load(str(tmp_path), base), {"unet": {name: tensor + 2 for name, tensor in half.items()}})
    torch.save({name: tensor + 1 for name, tensor in state.items()}, unet / "diffusion_pytorch_model.bin")
    assert_same(checkpoints.load(str(tmp_path), base), {"unet": {name: tensor + 1 for name, tensor in state.items()}})
    write(unet / "diffusion_pytorch_model.fp16.safetensors", half)
    assert_same(checkpoints.load(str(tmp_path), base), {"unet": half})
    write(unet / WEIGHTS, state)
    assert_same(checkpoints.load(str(tmp_path), base), {"unet": state})


# --- weights in 8 bits ---


def in_8_bits(tensors, dtype, scale_name, rows):
    """Every matrix of the UNet in 8 bits, with a scale for all of it or for each row; and what that stands for."""
    file, expected = {}, {}
    for name, tensor in tensors.items():
        if not (name.startswith(UNET) and name.endswith(".weight") and tensor.ndim > 1):
            file[name] = expected[name] = tensor
            continue
        highest = tensor.flatten(1).abs().amax(dim=1) if rows else tensor.abs().max()
        scale = (highest / 200).clamp(min=1e-8)
        shape = (-1, *[1] * (tensor.ndim - 1))
        file[name] = (tensor / scale.reshape(shape)).to(dtype)
        file[f"{name.removesuffix('weight')}{scale_name}"] = scale
        expected[name] = file[name].float() * scale.reshape(shape)
    return file, expected


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize(
    ("scale_name", "rows", "beside"),
    [
        ("scale_weight", False, {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}),
        ("scale_weight", True, {f"{UNET}input_blocks.1.0.in_layers.2.scale_input": torch.ones(())}),
        ("weight_scale", False, {f"{UNET}out.2.comfy_quant": torch.zeros(20, dtype=torch.uint8)}),
    ],
)
def test_scaled_weights_are_multiplied_out(tmp_path, base, other, dtype, scale_name, rows, beside):
    file, expected = in_8_bits(ldm_file(other[1]), dtype, scale_name, rows)
    found = checkpoints.load(write(tmp_path / "fp8.safetensors", file | beside), base)
    assert_same(found, checkpoints.load(write(tmp_path / "float.safetensors", expected), base))
    identity = identify_uri(str(tmp_path / "fp8.safetensors"))
    assert identity.parameters == identify_uri(str(tmp_path / "float.safetensors")).parameters
    assert str(dtype).removeprefix("torch.") in identity.dtype


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_8_bits_without_scales_are_the_numbers_themselves(tmp_path, base, other, dtype):
    file = {name: tensor.to(dtype) for name, tensor in ldm_file(other[1]).items() if tensor.is_floating_point()}
    found = checkpoints.load(write(tmp_path / "fp8.safetensors", file), base)
    plain = {name: tensor.float() for name, tensor in file.items()}
    expected = checkpoints.load(write(tmp_path / "float.safetensors", plain), base)
    assert_same({part: {n: t.float() for n, t in state.items()} for part, state in found.items()}, expected)
    copy.deepcopy(base["unet"]).load_state_dict(found["unet"])


def test_scales_that_cannot_be_multiplied_out_are_told(tmp_path, base, other):
    ldm, key = ldm_file(other[1]), f"{UNET}input_blocks.0.0"
    packed = torch.zeros(32, 2, 3, 3, dtype=torch.uint8)
    for name, content, expected in (
        ("blocks", {f"{key}.scale_weight": torch.ones(8, 2)}, r"weight is of float32 with scales \[8, 2\]: quantised"),
        ("packed", {f"{key}.weight": packed, f"{key}.weight_scale": torch.ones(())}, "weight is of uint8 with scales"),
        ("alone", {f"{UNET}nowhere.scale_weight": torch.ones(())}, "the scale of a weight that it has not"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            checkpoints.load(write(tmp_path / f"{name}.safetensors", ldm | content), base)
        assert "\n" not in str(caught.value)


# --- what is refused ---


def test_what_does_not_fit_is_named(tmp_path, base, other):
    ldm = ldm_file(other[1])
    key = f"{UNET}input_blocks.0.0.bias"
    short = {name: tensor for name, tensor in ldm.items() if name != key}
    for name, content, expected in (
        ("wide", ldm | {key: torch.ones(7)}, r"the unet of checkpoint .*wide.*conv_in.bias is \[7\], not \[32\]"),
        ("short", short, r"the unet of checkpoint .*short.* lacks conv_in.bias \(input_blocks.0.0.bias\)"),
        ("long", ldm | {f"{UNET}extra.weight": torch.ones(1)}, r"the unet of checkpoint .*long.* has extra.weight"),
        ("vae", ldm | {"first_stage_model.extra": torch.ones(1)}, "the vae of checkpoint .*vae.* has extra"),
        ("int8", ldm | {key: torch.ones(32, dtype=torch.int8)}, "conv_in.bias as torch.int8: quantised"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            checkpoints.load(write(tmp_path / f"{name}.safetensors", content), base)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (1,), (94,), (96, 32, 1), (32, 96)])
def test_a_fused_weight_of_a_wrong_shape_is_named(tmp_path, sdxl_base, sdxl_other, shape):
    ldm = ldm_file(states_of(sdxl_other), "sdxl")
    key = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    assert ldm[key].shape == (96, 32)
    uri = write(tmp_path / "model.safetensors", ldm | {key: torch.ones(shape)})
    if shape == (96, 32, 1):  # the same matrix
        assert checkpoints.load(uri, sdxl_base)
    else:
        with pytest.raises(UserError, match=r"layers\.0\.self_attn\.[qkv]_proj\.weight is \["):
            checkpoints.load(uri, sdxl_base)


def with_unet_like(ldm, *, channels=4, text_width=32):
    """The file with its UNet's two telltale widths changed."""
    text = {
        name: torch.ones(len(tensor), text_width) for name, tensor in ldm.items() if re.search("attn2.to_[kv]", name)
    }
    conv_in = f"{UNET}input_blocks.0.0.weight"
    return ldm | text | {conv_in: torch.ones(len(ldm[conv_in]), channels, 3, 3)}


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ({"channels": 9}, "inpainting"),
        ({"channels": 8}, "pix2pix"),
        ({"text_width": 1024}, "Stable Diffusion 2|SD 2"),
        ({"text_width": 2048}, "SDXL"),
        ({"text_width": 1280}, "refiner"),
    ],
)
def test_models_of_another_kind_are_refused_by_name(tmp_path, base, other, widths, expected):
    ldm = with_unet_like(ldm_file(other[1]), **widths)
    file = write(tmp_path / "model.safetensors", ldm)
    # A folder is told apart without the names that only single files have.
    unet = convert_ldm_unet_checkpoint(ldm, base["unet"].config)
    (tmp_path / "folder" / "unet").mkdir(parents=True)
    write(tmp_path / "folder" / "unet" / WEIGHTS, unet)
    for uri in (file, str(tmp_path / "folder")):
        with pytest.raises(UserError, match=expected) as caught:
            checkpoints.load(uri, base)
        assert "\n" not in str(caught.value)


def test_sdxl_and_stable_diffusion_1_are_not_mixed_up(tmp_path, base, other, sdxl_base, sdxl_other):
    small = write(tmp_path / "sd1.safetensors", ldm_file(other[1]))
    large = write(tmp_path / "sdxl.safetensors", ldm_file(states_of(sdxl_other), "sdxl"))
    sdxl_other["unet"].save_pretrained(tmp_path / "folder" / "unet")
    for uri, model in ((small, sdxl_base), (str(other[0]), sdxl_base), (large, base), (str(tmp_path / "folder"), base)):
        with pytest.raises(UserError, match="SDXL"):
            checkpoints.load(uri, model)


def test_files_that_are_no_checkpoints_are_one_line(tmp_path, base):
    write(tmp_path / "nothing.safetensors", {"a": torch.ones(1)})
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "old.ckpt").write_bytes(b"")
    for name in ("empty", "half/unet", "index/unet", "gone/unet"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "index" / "unet" / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": ["b"]}}')
    (tmp_path / "gone" / "unet" / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    for name, expected in (
        ("nothing.safetensors", r"nothing\.safetensors"),
        ("noise.safetensors", "is no weights file"),
        ("old.ckpt", "is empty"),
        ("empty", "no Stable Diffusion weights"),
        ("half", "no weights in its unet/"),
        ("index", "no index of weights files"),
        ("gone", r"weight_map names 'b.safetensors', which is no file beside it"),
        ("absent.safetensors", "there is no file"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            checkpoints.load(str(tmp_path / name), base)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret.safetensors", ""])
def test_an_index_does_not_lead_out_of_its_folder(tmp_path, base, other, name):
    write(tmp_path / "secret.safetensors", other[1]["unet"])
    (tmp_path / "model" / "unet").mkdir(parents=True)
    index = tmp_path / "model" / "unet" / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    with pytest.raises(UserError, match="no index of weights files"):
        checkpoints.load(str(tmp_path / "model"), base)


@pytest.mark.parametrize("content", [b'{"weight_map": ' + b"[" * 100_000, b'\xff\xfe{"', b"[]"])
def test_a_broken_index_is_one_line(tmp_path, base, other, content):
    (tmp_path / "model" / "unet").mkdir(parents=True)
    index = tmp_path / "model" / "unet" / f"{WEIGHTS}.index.json"
    index.write_bytes(content)
    with pytest.raises(UserError, match=rf"{index} (is not valid JSON|holds a list)") as caught:
        checkpoints.load(str(tmp_path / "model"), base)
    assert "\n" not in str(caught.value)


# --- writing, hashing ---


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_single_file_becomes_folders_that_diffusers_opens(tmp_path, base, other, sdxl_other, kind, monkeypatch):
    small = {"sd1": base, "sdxl": tiny_sdxl()}
    monkeypatch.setattr(checkpoints, "meta_modules", small.get)  # the known architectures are gigabytes
    states = other[1] if kind == "sd1" else states_of(sdxl_other)
    states = {part: {name: tensor.half() for name, tensor in state.items()} for part, state in states.items()}
    uri = write(tmp_path / "model.safetensors", ldm_file(states, kind))
    written = checkpoints.to_diffusers(uri, str(tmp_path / "out"))
    classes = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    assert written == list(states)
    opened = {
        part: classes[part].from_pretrained(tmp_path / "out" / part, torch_dtype=torch.float16) for part in written
    }
    assert_same(states_of(opened), states)
    assert_same(checkpoints.load(str(tmp_path / "out"), small[kind]), states)
    # No pipeline can be opened without a tokenizer and a scheduler, so none is claimed.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(states)
    # What the file says that it predicts is no longer in the weights: the folder says it by a scheduler.
    marks = dict.fromkeys(("v_pred", "ztsnr"), torch.tensor([]))
    uri = write(tmp_path / "v.safetensors", ldm_file(states, kind) | marks)
    checkpoints.to_diffusers(uri, str(tmp_path / "v"))
    assert prediction.of_checkpoint(str(tmp_path / "v")) == Prediction("v_prediction", zero_terminal_snr=True)
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "v" / "scheduler")
    assert scheduler.alphas_cumprod[-1] == 0


def test_tensors_that_share_memory_are_written(tmp_path, base, other, monkeypatch):
    monkeypatch.setattr(checkpoints, "meta_modules", {"sd1": base}.get)
    ldm = ldm_file(other[1])
    first, second = (f"{UNET}input_blocks.{i}.0.in_layers.0.weight" for i in (1, 2))
    torch.save(ldm | {second: ldm[first]}, tmp_path / "tied.ckpt")
    checkpoints.to_diffusers(str(tmp_path / "tied.ckpt"), str(tmp_path / "out"))
    names = [f"down_blocks.0.resnets.{i}.norm1.weight" for i in (0, 1)]
    tied = other[1]["unet"] | {names[1]: other[1]["unet"][names[0]]}
    assert_same(checkpoints.load(str(tmp_path / "out"), base), other[1] | {"unet": tied})


def test_a_full_disk_is_one_line(tmp_path, base, other, monkeypatch):
    monkeypatch.setattr(checkpoints, "meta_modules", {"sd1": base}.get)
    uri = write(tmp_path / "model.safetensors", ldm_file(other[1]))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot use .*unet/diffusion_pytorch_model\.safetensors") as caught:
            checkpoints.to_diffusers(uri, str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_content_hash_follows_the_weights_only(tmp_path, other):
    copy = shutil.copytree(other[0], tmp_path / "copy")
    before = checkpoints.content_hash(str(other[0]))
    (copy / "README.md").write_text("a model")
    assert checkpoints.content_hash(str(copy)) == before
    weights = copy / "vae" / WEIGHTS
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert checkpoints.content_hash(str(copy)) != before


def test_content_hash_of_a_folder_of_one_part_follows_its_weights(tmp_path, other):
    copy = shutil.copytree(other[0] / "vae", tmp_path / "vae")
    before = checkpoints.content_hash(str(copy))
    (copy / "README.md").write_text("a VAE")
    assert checkpoints.content_hash(str(copy)) == before
    save_file({name: tensor + 1 for name, tensor in load_file(copy / WEIGHTS).items()}, copy / WEIGHTS)
    assert checkpoints.content_hash(str(copy)) != before


@pytest.mark.parametrize("where", ["local", "remote"])
def test_content_hash_of_a_run_or_checkpoint_folder_is_its_motion_modules(tmp_path, monkeypatch, where):
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    folder = f"memory://{tmp_path.name}/run" if where == "remote" else str(tmp_path / "run")
    storage.write_bytes(f"{folder}/motion_module.safetensors", b"weights")
    for name in ("state.json", "optimizer.pt", "config.yaml", "checkpoints/step-1/motion_module.safetensors"):
        storage.write_bytes(f"{folder}/{name}", b"{}")
    assert checkpoints.content_hash(folder) == hashlib.sha256(b"weights").hexdigest()
    fetched = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert fetched == ({"motion_module.safetensors"} if where == "remote" else set())


@pytest.mark.parametrize(
    "name", [f"unet/{WEIGHTS}", WEIGHTS, "adapter_config.json", "pytorch_lora_weights.safetensors", "model.safetensors"]
)
def test_content_hash_of_a_folder_with_more_than_a_motion_module_follows_all_that_is_read(tmp_path, name):
    hashes = set()
    for motion, other in ((b"a", b"b"), (b"a", b"c"), (b"d", b"c")):
        storage.write_bytes(str(tmp_path / "motion_module.safetensors"), motion)
        storage.write_bytes(str(tmp_path / name), other)
        hashes.add(checkpoints.content_hash(str(tmp_path)))
    assert len(hashes) == 3


def test_content_hash_of_pefts_files_follows_their_alpha(tmp_path):
    """Two folders must not share a hash, and the config beside the weights decides their strength."""
    hashes = set()
    for name, weights, alpha in (("a", 1.0, 8), ("b", 2.0, 8), ("c", 1.0, 16)):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"x": torch.full((2,), weights)}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(f'{{"r": 8, "lora_alpha": {alpha}}}')
        of_folder = checkpoints.content_hash(str(folder))
        assert checkpoints.content_hash(str(folder / "adapter_model.safetensors")) == of_folder
        hashes.add(of_folder)
    assert len(hashes) == 3


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    uri = f"memory://{tmp_path.name}"
    yield uri
    fs, path = storage.filesystem(uri)
    fs.rm(path, recursive=True)


def test_content_hash_of_pefts_file_in_a_bucket_follows_its_alpha(tmp_path, bucket):
    save_file({"x": torch.ones(2)}, tmp_path / "local.safetensors")
    weights = (tmp_path / "local.safetensors").read_bytes()
    for name in ("adapter_model", "plain"):
        storage.write_bytes(f"{bucket}/{name}.safetensors", weights)
    alone = [checkpoints.content_hash(f"{bucket}/{name}.safetensors") for name in ("adapter_model", "plain")]
    assert set(alone) == {hashlib.sha256(weights).hexdigest()}
    hashes = set(alone)
    for alpha in (8, 16):
        storage.write_bytes(f"{bucket}/adapter_config.json", b'{"r": 8, "lora_alpha": %d}' % alpha)
        hashes.add(checkpoints.content_hash(f"{bucket}/adapter_model.safetensors"))
    assert len(hashes) == 3
    # The config decides nothing for files of other names.
    assert checkpoints.content_hash(f"{bucket}/plain.safetensors") == alone[1]


def test_content_hash_of_pefts_file_does_not_follow_its_neighbours(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 8}')
    uris = [str(tmp_path / "adapter_model.safetensors"), str(tmp_path)]
    before = checkpoints.content_hash(uris[0])
    # Neither a folder named like a part nor another file has a say, and neither takes the file's own away.
    (tmp_path / "vae").mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "vae" / WEIGHTS)
    save_file({"x": torch.ones(2)}, tmp_path / "another.safetensors")
    assert checkpoints.content_hash(uris[0]) == before
    hashes = [tuple(map(checkpoints.content_hash, uris))]
    save_file({"x": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    hashes.append(tuple(map(checkpoints.content_hash, uris)))
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16}')
    hashes.append(tuple(map(checkpoints.content_hash, uris)))
    assert all(len(set(column)) == 3 for column in zip(*hashes, strict=True))


def test_content_hash_of_an_unreadable_file_is_one_line():
    # A file that is there and can be opened, and whose first byte nobody can read, root neither.
    with pytest.raises(UserError, match="cannot read /proc/self/mem: Input/output error"):
        checkpoints.content_hash("/proc/self/mem")
