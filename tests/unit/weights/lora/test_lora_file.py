"""Low-rank files in every layout that users have: the right weight, changed by the right amount."""

import logging
import re

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from animatediff.weights.base import load_text_encoder, load_unet
from animatediff.weights.lora import lora_file
from tests.support_base import build_base
from tests.support_lora import (
    ATTENTION,
    BLOCK,
    CONV,
    PROJ_IN,
    assert_changed,
    draw,
    expected,
    factors,
    flat,
    good,
    kohya,
    merge,
    respelled,
    write,
)
from tests.support_weights import tiny_sdxl, unet_to_ldm

CLIP = "encoder.layers.1"
KEY = "lora_unet_" + flat(ATTENTION)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def states(base):
    return {"unet": load_unet(base).state_dict(), "text_encoder": load_text_encoder(base)[1].state_dict()}


@pytest.fixture(scope="module")
def sdxl():
    return {part: module.state_dict() for part, module in tiny_sdxl().items()}


def weight_of(states, part, module):
    """Name and value of a module's weight; transformers has moved between names with and without `text_model.`."""
    name = next(n for n in (f"{module}.weight", f"text_model.{module}.weight") if n in states[part])
    return name, states[part][name]


UNET = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", f"{BLOCK}.ff.net.0.proj", f"{BLOCK}.ff.net.2", CONV, PROJ_IN]
TEXT = [f"{CLIP}.self_attn.q_proj", f"{CLIP}.self_attn.out_proj", f"{CLIP}.mlp.fc1"]
PAIRS = {
    "kohya": ("{}.lora_down.weight", "{}.lora_up.weight"),
    "peft": ("{}.lora_A.weight", "{}.lora_B.weight"),
    "live peft": ("{}.lora_A.default.weight", "{}.lora_B.default.weight"),
    "named peft": ("{}.lora_A.my-lora.weight", "{}.lora_B.my-lora.weight"),
    "diffusers": ("{}.lora.down.weight", "{}.lora.up.weight"),
    "joined": ("{}_lora.down.weight", "{}_lora.up.weight"),
    "linear layer": ("{}.lora_linear_layer.down.weight", "{}.lora_linear_layer.up.weight"),
}


def ldm(module):
    return unet_to_ldm(f"{module}.weight").removesuffix(".weight")


def processor(module):
    """diffusers' first layout: the factors belong to the attention's processor, which has one output projection."""
    return re.sub(r"\.(to_[qkv]|to_out)(\.0)?$", r".processor.\1", module)


LAYOUTS = [
    *[("unet", module, f"lora_unet_{flat(module)}", "kohya") for module in UNET],
    *[("unet", module, f"lycoris_{flat(module)}", "kohya") for module in UNET],
    *[("unet", module, f"diffusion_model.{ldm(module)}", "kohya") for module in UNET],
    *[("unet", module, f"unet.{module}", pair) for module in UNET for pair in ("peft", "diffusers")],
    *[
        ("unet", module, f"base_model.model.{module}", pair)
        for module in UNET
        for pair in ("peft", "live peft", "named peft")
    ],
    *[("unet", module, f"unet.unet.{module}", "peft") for module in UNET],
    *[("unet", module, prefix + processor(module), "joined") for module in UNET[:2] for prefix in ("unet.", "")],
    *[("text_encoder", module, f"lora_te_text_model_{flat(module)}", "kohya") for module in TEXT],
    *[("text_encoder", module, f"text_encoder.text_model.{module}", "peft") for module in TEXT],
    *[("text_encoder", module, f"text_encoder.text_model.{module}", "linear layer") for module in TEXT],
    *[("text_encoder", module, f"base_model.model.text_model.{module}", "peft") for module in TEXT],
    *[("text_encoder", module, f"text_encoders.clip_l.transformer.text_model.{module}", "kohya") for module in TEXT],
    ("text_encoder", TEXT[0], f"text_encoder.text_model.{CLIP}.self_attn.to_q", "joined"),
    ("text_encoder", TEXT[1], f"text_encoder.text_model.{CLIP}.self_attn.to_out", "joined"),
]


@pytest.mark.parametrize(("part", "module", "spelled", "pair"), LAYOUTS, ids=[f"{s} {p}" for _, _, s, p in LAYOUTS])
def test_every_layout_changes_its_weight(tmp_path, states, part, module, spelled, pair):
    name, weight = weight_of(states, part, module)
    down, up = factors(weight, rank=3)
    tensors = dict(zip((key.format(spelled) for key in PAIRS[pair]), (down, up), strict=True))
    merged = merge(states, write(tmp_path / "l.safetensors", tensors), scale=0.5)
    assert_changed(merged, states, {(part, name): expected(weight, down, up, 0.5)})
    tensors[f"{spelled}.alpha"] = torch.tensor(2.0)
    merged = merge(states, write(tmp_path / "l.safetensors", tensors), scale=0.5)
    assert_changed(merged, states, {(part, name): expected(weight, down, up, 0.5 * 2 / 3)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_factors_of_any_float_type(tmp_path, states, dtype):
    weight = states["unet"][f"{CONV}.weight"]
    down, up = (factor.to(dtype) for factor in factors(weight, rank=4))
    path = write(tmp_path / "l.safetensors", kohya("lora_unet_" + flat(CONV), down, up, alpha=3))
    merged = merge(states, path, scale=1)
    assert_changed(merged, states, {("unet", f"{CONV}.weight"): expected(weight, down.float(), up.float(), 3 / 4)})


def test_every_matrix_of_the_base_has_its_kohya_name(tmp_path, states):
    tensors, wanted = {}, {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        for seed, (name, weight) in enumerate(states[part].items()):
            if name.endswith(".weight") and weight.ndim > 1:
                down, up = factors(weight, seed=seed)
                tensors |= kohya(prefix + flat(name.removesuffix(".weight").removeprefix("text_model.")), down, up, 1.0)
                wanted[part, name] = expected(weight, down, up, 1 / 2)
    assert_changed(merge(states, write(tmp_path / "l.safetensors", tensors), scale=1), states, wanted)


SIZE = st.integers(1, 9)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(SIZE, SIZE) | st.tuples(SIZE, SIZE, st.sampled_from([1, 3]), st.sampled_from([1, 3])),
    rank=st.integers(1, 5),
    alpha=st.none() | st.floats(-8, 8, width=32),
    scale=st.floats(-2, 2),
)
def test_any_weight_rank_alpha_and_scale(tmp_path, shape, rank, alpha, scale):
    weight = draw(*shape, seed=9)
    down, up = factors(weight, rank)
    path = write(tmp_path / "l.safetensors", kohya("lora_unet_" + flat(CONV), down, up, alpha))
    states = {"unet": {f"{CONV}.weight": weight, "conv_in.weight": draw(2, 2)}}
    wanted = {("unet", f"{CONV}.weight"): expected(weight, down, up, scale * (1 if alpha is None else alpha / rank))}
    assert_changed(merge(states, path, scale=scale), states, wanted, atol=2e-5)


def test_sdxl_in_kohyas_names(tmp_path, sdxl):
    """kohya trains SDXL on the original UNet, and on both text encoders."""
    tensors, wanted = {}, {}
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}
    for part, prefix in prefixes.items():
        for seed, (name, weight) in enumerate(sdxl[part].items()):
            if name.endswith(".weight") and weight.ndim > 1:
                down, up = factors(weight, seed=seed)
                spelled = unet_to_ldm(name, "sdxl") if part == "unet" else name.removeprefix("text_model.")
                tensors |= kohya(prefix + flat(spelled.removesuffix(".weight")), down, up, alpha=4.0)
                wanted[part, name] = expected(weight, down, up, 4 / 2)
    tensors = respelled(tensors, ("lora_te2_text_model_text_projection", "lora_te2_text_projection"))
    for name in ("label_emb_0_0", "out_2", "time_embed_0", "input_blocks_4_1_transformer_blocks_0_attn1_to_q"):
        assert f"lora_unet_{name}.alpha" in tensors
    assert_changed(merge(sdxl, write(tmp_path / "l.safetensors", tensors), scale=1), sdxl, wanted)


def test_linear_factors_of_a_1x1_convolution_and_the_other_way_round(tmp_path, states):
    point, linear = states["unet"][f"{PROJ_IN}.weight"], states["unet"][f"{ATTENTION}.to_q.weight"]
    assert (point.ndim, linear.ndim) == (4, 2)
    of_point, of_linear = factors(point.flatten(1)), factors(linear[:, :, None, None])
    tensors = kohya("lora_unet_" + flat(PROJ_IN), *of_point) | kohya(f"{KEY}_to_q", *of_linear)
    wanted = {
        ("unet", f"{PROJ_IN}.weight"): expected(point.flatten(1), *of_point, 1)[:, :, None, None],
        ("unet", f"{ATTENTION}.to_q.weight"): expected(linear[:, :, None, None], *of_linear, 1).flatten(1),
    }
    assert_changed(merge(states, write(tmp_path / "l.safetensors", tensors), scale=1), states, wanted)


def test_lycoris_algorithms_find_their_weights(tmp_path, states):
    """One of each in a file; their arithmetic is the changes' own test."""
    w1a, w1b, w2a, w2b = draw(32, 2), draw(2, 32), draw(32, 2, seed=1), draw(2, 32, seed=1)
    loha = dict(
        zip((f"{KEY}_to_q.hada_w{i}_{side}" for i in (1, 2) for side in "ab"), (w1a, w1b, w2a, w2b), strict=True)
    )
    lokr = {f"{KEY}_to_k.lokr_w1": draw(4, 8), f"{KEY}_to_k.lokr_w2": draw(8, 4)}
    alphas = {
        f"{KEY}_to_q.alpha": torch.tensor(3.0),
        # Of two whole matrices alpha says nothing: LyCORIS writes 1e10, which is infinite in half precision.
        f"{KEY}_to_k.alpha": torch.tensor(float("inf"), dtype=torch.float16),
    }
    conv = "lora_unet_" + flat(CONV)
    cored = kohya(conv, draw(3, 32, 1, 1), draw(32, 3, 1, 1), 1.5) | {f"{conv}.lora_mid.weight": draw(3, 3, 3, 3)}
    full = {f"{KEY}_to_v.diff": draw(32, 32), f"{KEY}_to_out_0.diff_b": draw(32)}
    norm = {"lora_unet_conv_norm_out.w_norm": draw(32), "lora_unet_conv_norm_out.b_norm": draw(32, seed=1)}
    merged = merge(states, write(tmp_path / "l.safetensors", loha | lokr | alphas | cored | full | norm), scale=0.5)
    chain = torch.einsum("or,rshw,si->oihw", draw(32, 3).double(), draw(3, 3, 3, 3).double(), draw(3, 32).double())
    added = {
        f"{ATTENTION}.to_q.weight": 3 / 2 * (w1a.double() @ w1b.double()) * (w2a.double() @ w2b.double()),
        f"{ATTENTION}.to_k.weight": torch.kron(draw(4, 8).double(), draw(8, 4).double()),
        f"{CONV}.weight": 1.5 / 3 * chain,
        f"{ATTENTION}.to_v.weight": draw(32, 32).double(),
        f"{ATTENTION}.to_out.0.bias": draw(32).double(),
        "conv_norm_out.weight": draw(32).double(),
        "conv_norm_out.bias": draw(32, seed=1).double(),
    }
    wanted = {("unet", name): states["unet"][name].double() + 0.5 * change for name, change in added.items()}
    assert_changed(merged, states, wanted)


def kohya_file(states, unet, text):
    """kohya's factors of modules of both parts, of several ranks, alpha 3."""
    tensors = {}
    for seed, module in enumerate(unet):
        pair = factors(states["unet"][f"{module}.weight"], 2 + seed % 3, seed)
        tensors |= kohya("lora_unet_" + flat(module), *pair, 3.0)
    for seed, module in enumerate(text):
        pair = factors(weight_of(states, "text_encoder", module)[1], 2 + seed % 3, seed)
        tensors |= kohya("lora_te_text_model_" + flat(module), *pair, 3.0)
    return tensors


def by_diffusers(base, path, scale):
    """The state dicts that diffusers' own loader makes."""
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.load_lora_weights(path)
    pipe.fuse_lora(lora_scale=scale)
    pipe.unload_lora_weights()
    return {part: getattr(pipe, part).state_dict() for part in ("unet", "text_encoder")}


def test_diffusers_merges_a_kohya_file_likewise(tmp_path, base, states):
    unet = [f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", f"{BLOCK}.ff.net.2", CONV, "up_blocks.1.upsamplers.0.conv"]
    text = [f"{CLIP}.self_attn.q_proj", f"{CLIP}.self_attn.out_proj", f"{CLIP}.mlp.fc2"]
    path = write(tmp_path / "l.safetensors", kohya_file(states, unet, text))
    merged = merge(states, path, scale=0.7)
    for part, state in by_diffusers(base, path, 0.7).items():
        assert sum(merged[part][name] is not states[part][name] for name in state) == len(
            {"unet": unet}.get(part, text)
        )
        for name, weight in state.items():
            torch.testing.assert_close(merged[part][name], weight, atol=1e-6, rtol=1e-5, msg=name)


def test_diffusers_loses_a_text_encoders_attention_without_its_output(tmp_path, base, states):
    """diffusers (0.42) tells the layout from one key, and drops without a word what is then unknown."""
    module = f"{CLIP}.self_attn.q_proj"
    path = write(tmp_path / "l.safetensors", kohya_file(states, [CONV], [module, f"{CLIP}.mlp.fc2"]))
    name, weight = weight_of(states, "text_encoder", module)
    assert torch.equal(by_diffusers(base, path, 1)["text_encoder"][name], weight)
    assert not torch.equal(merge(states, path, scale=1)["text_encoder"][name], weight)


def test_only_names_and_shapes_of_the_models_are_read(tmp_path, states):
    meta = {part: {name: tensor.to("meta") for name, tensor in state.items()} for part, state in states.items()}
    path = write(tmp_path / "l.safetensors", good())
    assert lora_file.read_deltas(path, meta, family="lora").keys() == {("unet", f"{ATTENTION}.to_q.weight")}


def test_lycoris_scalar_multiplies_the_change(tmp_path, states):
    """Older versions of LyCORIS train it with the factors and save it beside them."""
    down, up, w1, w2 = draw(2, 32), draw(32, 2), draw(4, 8), draw(8, 4)
    tensors = kohya(f"{KEY}_to_q", down, up, 3.0) | {f"{KEY}_to_k.lokr_w1": w1, f"{KEY}_to_k.lokr_w2": w2}
    tensors |= {f"{KEY}_to_q.scalar": torch.tensor(0.25), f"{KEY}_to_k.scalar": torch.tensor([-2.0])}
    query, key = (states["unet"][f"{ATTENTION}.to_{n}.weight"] for n in "qk")
    wanted = {
        ("unet", f"{ATTENTION}.to_q.weight"): expected(query, down, up, 0.25 * 3 / 2),
        ("unet", f"{ATTENTION}.to_k.weight"): key.double() - 2 * torch.kron(w1.double(), w2.double()),
    }
    assert_changed(merge(states, write(tmp_path / "l.safetensors", tensors), scale=1), states, wanted)


def test_modules_that_change_nothing_are_left_out_with_one_warning(tmp_path, states, caplog):
    """Trainers write them where a layer was switched off; a place of another width is none the worse for it."""
    idle = kohya(f"{KEY}_to_k", draw(0, 32), draw(32, 0), 1.0)
    idle |= kohya("lora_unet_" + flat(CONV), draw(0, 32, 3, 3), draw(32, 0, 1, 1))
    idle |= {f"{KEY}_to_v.alpha": torch.tensor(4.0)}
    with caplog.at_level(logging.WARNING):
        changes = lora_file.read_deltas(write(tmp_path / "l.safetensors", good() | idle), states, family="lora")
    assert changes.keys() == {("unet", f"{ATTENTION}.to_q.weight")}
    assert [record.getMessage().partition(": ")[2][:40] for record in caplog.records] == [
        "3 of its 4 modules have rank 0, or an al"
    ]


@pytest.mark.parametrize("alphas", [(0.0, 0.0), (0.0, 1.0)])
def test_a_file_whose_alphas_are_all_0_changes_nothing_and_it_is_said(tmp_path, states, caplog, alphas):
    tensors = {}
    for name, alpha in zip("qk", alphas, strict=True):
        tensors |= kohya(f"{KEY}_to_{name}", draw(2, 32), draw(32, 2), alpha)
    with caplog.at_level(logging.WARNING):
        lora_file.read_deltas(write(tmp_path / "l.safetensors", tensors), states, family="lora")
    assert ["changes nothing" in record.getMessage() for record in caplog.records] == [True] * (not any(alphas))


def test_a_lora_of_sd1_in_the_original_names_without_cross_attention(tmp_path, states):
    name = f"{ATTENTION}.to_q"
    down, up = factors(states["unet"][f"{name}.weight"])
    path = write(tmp_path / "l.safetensors", kohya(f"lora_unet_{flat(ldm(name))}", down, up))
    wanted = {("unet", f"{name}.weight"): expected(states["unet"][f"{name}.weight"], down, up, 1)}
    assert_changed(merge(states, path, scale=1), states, wanted)
