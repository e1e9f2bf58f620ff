"""SDXL checkpoints, VAEs and LoRAs in the forms in which they circulate: read to the bit, or told what to do."""

import pytest
import torch
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.weights import checkpoints
from animatediff.weights.identify.weights_file import expect_family, identify
from animatediff.weights.layouts.ldm import UNET_PREFIX, VAE_PREFIX
from animatediff.weights.lora import lora_file
from animatediff.weights.reading.tensors import open_tensors
from tests.support_weights import ldm_file, tiny_sdxl

UNET, WHOLE = {"unet"}, {"unet", "vae", "text_encoder", "text_encoder_2"}


@pytest.fixture(scope="module")
def base():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def states():
    return {part: module.state_dict() for part, module in tiny_sdxl(seed=1).items()}


@pytest.fixture(scope="module")
def ldm(states):
    return ldm_file(states, "sdxl")


def renamed(tensors, before, after=""):
    """Those whose names begin so, with another beginning."""
    return {after + name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}


def averaged(ldm):
    return {
        "model_ema.diffusion_model" + name.replace(".", ""): tensor
        for name, tensor in renamed(ldm, UNET_PREFIX).items()
    }


def in_8_bits(ldm):
    """As ComfyUI's scaled files have the UNet; halves and doubles are exact."""
    found = {}
    for name, tensor in ldm.items():
        is_matrix = name.startswith(UNET_PREFIX) and name.endswith(".weight") and tensor.ndim == 2
        found[name] = (tensor / 2).to(torch.float8_e4m3fn) if is_matrix else tensor
        if is_matrix:
            found[name.removesuffix("weight") + "scale_weight"] = torch.tensor(2.0)
    return found | {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}


FORMS = {
    "whole": (lambda ldm, states: ldm, WHOLE),
    "marked": (lambda ldm, states: ldm | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, WHOLE),
    "without its VAE": (
        lambda ldm, states: {n: t for n, t in ldm.items() if not n.startswith(VAE_PREFIX)},
        WHOLE - {"vae"},
    ),
    "with an averaged UNet": (lambda ldm, states: ldm | averaged(ldm), WHOLE),
    "the averaged UNet alone": (lambda ldm, states: averaged(ldm), UNET),
    "wrapped by a trainer": (lambda ldm, states: renamed(ldm, "", "model."), WHOLE),
    "compiled": (lambda ldm, states: renamed(ldm, "", "_orig_mod."), WHOLE),
    "wrapped twice": (lambda ldm, states: renamed(ldm, "", "module.model."), WHOLE),
    "the UNet alone": (lambda ldm, states: renamed(ldm, UNET_PREFIX, UNET_PREFIX), UNET),
    "ComfyUI's UNet": (lambda ldm, states: renamed(ldm, UNET_PREFIX, "diffusion_model."), UNET),
    "the bare UNet": (lambda ldm, states: renamed(ldm, UNET_PREFIX), UNET),
    "diffusers' UNet": (lambda ldm, states: states["unet"], UNET),
    "diffusers' UNet, prefixed": (lambda ldm, states: renamed(states["unet"], "", "unet."), UNET),
    "diffusers' UNet, compiled": (lambda ldm, states: renamed(states["unet"], "", "_orig_mod."), UNET),
    "diffusers' pipeline": (
        lambda ldm, states: {f"{part}.{name}": t for part, state in states.items() for name, t in state.items()},
        WHOLE,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_checkpoints_are_read_to_the_bit(tmp_path, base, ldm, states, form):
    make, parts = FORMS[form]
    uri = str(tmp_path / "model.safetensors")
    save_file({name: tensor.clone() for name, tensor in make(ldm, states).items()}, uri)
    found = expect_family(open_tensors(uri), {"checkpoint"})
    assert found.base in ("sdxl", None)
    read = checkpoints.load(uri, base)
    assert read.keys() == parts
    assert all(torch.equal(tensor, states[part][name]) for part in parts for name, tensor in read[part].items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_checkpoints_in_any_precision(tmp_path, base, ldm, states, dtype):
    uri = str(tmp_path / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in ldm.items()}, uri)
    for part, state in checkpoints.load(uri, base).items():
        assert all(torch.equal(t.float(), states[part][name].to(dtype).float()) for name, t in state.items())


def test_a_unet_in_8_bits_with_scales(tmp_path, base, ldm, states):
    uri = str(tmp_path / "model.safetensors")
    save_file(in_8_bits(ldm), uri)
    for name, tensor in checkpoints.load(uri, base)["unet"].items():
        own = states["unet"][name]
        is_matrix = name.endswith(".weight") and own.ndim == 2
        assert torch.equal(tensor.float(), (own / 2).to(torch.float8_e4m3fn).float() * 2 if is_matrix else own)


@pytest.mark.parametrize("prefix", ["first_stage_model.", "", "vae."])
def test_a_vae_of_its_own(tmp_path, base, ldm, states, prefix):
    uri = str(tmp_path / "vae.safetensors")
    save_file(renamed(ldm, VAE_PREFIX, prefix), uri)
    expect_family(open_tensors(uri), {"vae"})
    read = checkpoints.load(uri, {"vae": base["vae"]})["vae"]
    assert all(torch.equal(tensor, states["vae"][name]) for name, tensor in read.items())


def test_a_part_of_a_sharded_model_is_told_to_be_one(tmp_path, base, states):
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    halves = [dict(list(states["unet"].items())[number::2]) for number in (0, 1)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, tmp_path / name)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    weight_map = ", ".join(f'"{key}": "{name}"' for name, half in zip(names, halves, strict=True) for key in half)
    index.write_text(f'{{"metadata": {{"total_size": 1}}, "weight_map": {{{weight_map}}}}}')
    for path, told in (
        (names[0], "is one of several files of a model"),
        (index.name, "is the index of a model in sever"),
    ):
        with pytest.raises(UserError, match=rf"{told}.*: name the folder that they are in"):
            checkpoints.load(str(tmp_path / path), base)
    assert torch.equal(
        checkpoints.load(str(tmp_path), base)["unet"]["conv_in.weight"], states["unet"]["conv_in.weight"]
    )


ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OF_TEXT = "text_model.encoder.layers.0.self_attn.v_proj"
KOHYA = (f"lora_unet_{ATTENTION.replace('.', '_')}", *(f"lora_te{n}_{OF_TEXT.replace('.', '_')}" for n in (1, 2)))
LORAS = {
    "kohya": (KOHYA, "lora_down.weight", "lora_up.weight"),
    "kohya, the original repository's names": (
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", *KOHYA[1:]),
        *("lora_down.weight", "lora_up.weight"),
    ),
    "diffusers": (
        (f"unet.{ATTENTION}", f"text_encoder.{OF_TEXT}", f"text_encoder_2.{OF_TEXT}"),
        *("lora_A.weight", "lora_B.weight"),
    ),
    "diffusers' earlier": (
        (f"unet.{ATTENTION}", f"text_encoder.{OF_TEXT}", f"text_encoder_2.{OF_TEXT}"),
        *("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    ),
    "ComfyUI": (
        (
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
            *(f"text_encoders.clip_{name}.transformer.{OF_TEXT}" for name in "lg"),
        ),
        *("lora_down.weight", "lora_up.weight"),
    ),
    "OneTrainer": (
        (f"unet.{ATTENTION}", f"clip_l.{OF_TEXT}", f"clip_g.{OF_TEXT}"),
        *("lora_down.weight", "lora_up.weight"),
    ),
}


@pytest.mark.parametrize("form", LORAS)
def test_loras_change_the_unet_and_both_text_encoders(tmp_path, states, form):
    modules, down, up = LORAS[form]
    parts = ("unet", "text_encoder", "text_encoder_2")
    weights = {
        (part, next(n for n in states[part] if n.endswith(f"{path}.weight")))
        for part, path in zip(parts, (ATTENTION, *[OF_TEXT.removeprefix("text_model.")] * 2), strict=True)
    }
    shapes = {part: states[part][name].shape for part, name in weights}
    factors = {part: (torch.randn(2, shape[1]), torch.randn(shape[0], 2)) for part, shape in shapes.items()}
    uri = str(tmp_path / "lora.safetensors")
    save_file(
        {
            f"{m}.{name}": t
            for m, part in zip(modules, parts, strict=True)
            for name, t in zip((down, up), factors[part], strict=True)
        },
        uri,
    )
    deltas = lora_file.read_deltas(uri, states, family="lora")
    assert deltas.keys() == weights
    for (part, _), delta in deltas.items():
        torch.testing.assert_close(delta.to_dense(), factors[part][1] @ factors[part][0])


def test_the_first_half_of_an_embeddings_pair_is_told_how_it_is_given(tmp_path):
    save_file({"<cat>": torch.ones(1, 768)}, tmp_path / "learned_embeds.safetensors")
    file = open_tensors(str(tmp_path / "learned_embeds.safetensors"))
    assert identify(file).base == "sd1"
    with pytest.raises(
        UserError, match="the first half of a pair for SDXL, save both halves in one file, as clip_l and"
    ):
        expect_family(file, {"textual_inversion"}, base="sdxl")
