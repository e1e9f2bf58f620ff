"""Low-rank files: false friends next to each other; the published sizes are the oracle."""

import json

import pytest
import torch

from animatediff.weights.identify.weights_file import identify
from animatediff.weights.reading.tensors import TensorFile
from tests.weights_samples import (
    ATTN1,
    ATTN2,
    SD1_LORA,
    SDXL_LORA,
    SGM,
    TO_DIFFUSERS,
    adapter,
    as_kohya,
    assert_told,
    kohya,
    motion_lora,
    pair,
    renamed,
    with_alpha,
    z,
)

ADAPTER_OF_DIFFUSERS = {
    f"unet.{name}": tensor
    for name, tensor in renamed(
        adapter(), (".processor", ""), ("out_lora", "out.0_lora"), ("_lora.down", ".lora_A"), ("_lora.up", ".lora_B")
    ).items()
}

# name: (tensors, what must be told of them)
LOW_RANK = {
    # Low-rank files of motion, of attention, and of everything.
    "MotionLoRA": (
        motion_lora(),
        {
            "family": "motion_lora",
            "version": "v2",
            "layout": "official",
            "base": "sd1",
            "rank": "64",
            "alpha": None,
            "parameters": 19_333_120,
        },
    ),
    "MotionLoRA of diffusers": (
        renamed(
            motion_lora(rank=32, mid=False, projection="unet.{}.to_{}.lora.{}.weight"),
            *TO_DIFFUSERS,
            (".lora.down.", ".lora_A."),
            (".lora.up.", ".lora_B."),
        ),
        {"family": "motion_lora", "version": None, "layout": "diffusers", "base": "sd1", "rank": "32"},
    ),
    "MotionLoRA of MotionDirector": (
        motion_lora(rank=32)
        | pair(
            f"{ATTN1.replace('attentions', 'motion_modules')}.to_out.processor.0_lora", 32, 320, 320, (), ("down", "up")
        ),
        {"family": "motion_lora", "layout": "motiondirector", "rank": "32"},
    ),
    "domain adapter": (
        adapter(),
        {
            "family": "domain_adapter",
            "layout": "diffusers attention processors",
            "base": "sd1",
            "rank": "128",
            "alpha": None,
            "parameters": 25_509_888,
        },
    ),
    "domain adapter for A1111": (
        as_kohya(adapter()),
        {"family": "domain_adapter", "layout": "kohya", "base": "sd1", "rank": "128", "parameters": 25_509_888},
    ),
    "domain adapter of diffusers": (
        ADAPTER_OF_DIFFUSERS,
        {
            "family": "domain_adapter",
            "layout": "diffusers",
            "base": "sd1",
            "rank": "128",
            "parameters": 25_509_888,
            "note": "any LoRA of rank 128",
        },
    ),
    "LoRA of rank 128 in diffusers' layout, of some blocks": (
        {name: tensor for name, tensor in ADAPTER_OF_DIFFUSERS.items() if "down_blocks" in name},
        {"family": "lora", "layout": "diffusers", "base": "sd1", "rank": "128"},
    ),
    "domain adapter of some blocks": (
        {name: tensor for name, tensor in adapter().items() if "down_blocks" in name},
        {"family": "domain_adapter", "layout": "diffusers attention processors", "note": None},
    ),
    "domain adapter under a repeated prefix": (
        {f"unet.{name}": tensor for name, tensor in ADAPTER_OF_DIFFUSERS.items()},
        {"family": "domain_adapter", "layout": "diffusers"},
    ),
    "attention processors of another rank": (
        adapter(rank=4),
        {"family": "lora", "version": "LoRA", "layout": "diffusers attention processors", "base": "sd1", "rank": "4"},
    ),
    "attention processors without self-attention": (adapter(attentions=("attn2",)), {"family": "lora", "rank": "128"}),
    "attention processors without queries": (adapter(matrices=("k", "v", "out")), {"family": "lora", "rank": "128"}),
    "adapter and more": (
        as_kohya(adapter()) | pair(kohya("down_blocks.0.attentions.0.proj_in"), 128, 320, 320),
        {"family": "lora", "layout": "kohya", "rank": "128"},
    ),
    "adapter with another alpha": (with_alpha(as_kohya(adapter()), 64), {"family": "lora", "alpha": "64"}),
    "adapter of LoHa": (
        {f"{kohya(ATTN1)}_to_q.hada_w1_b": z(128, 640), f"{kohya(ATTN1)}_to_q.hada_w1_a": z(640, 128)},
        {"family": "lora", "version": "LoHa", "rank": "128"},
    ),
    # LoRAs by base.
    "LoRA of SD 1.x": (
        SD1_LORA,
        {
            "family": "lora",
            "version": "LoRA",
            "layout": "kohya",
            "base": "sd1",
            "rank": "8",
            "alpha": "4",
            "parameters": 8 * (768 + 640) + 8 * (768 + 768),
        },
    ),
    "LoRA of SD 2": (pair(kohya(f"{ATTN2}.to_k"), into=1024), {"family": "lora", "base": "sd2", "alpha": None}),
    "LoRA of SDXL": (SDXL_LORA, {"family": "lora", "layout": "kohya", "base": "sdxl", "alpha": "8"}),
    "LoRA of SDXL in diffusers' names": (
        pair(kohya(f"{ATTN2}.to_k"), into=2048),
        {"family": "lora", "layout": "kohya", "base": "sdxl"},
    ),
    "LoRA of SDXL's self-attention": (
        pair(kohya("down_blocks.2.attentions.0.transformer_blocks.9.attn1.to_k"), into=1280),
        {"family": "lora", "base": "sdxl"},
    ),
    "LoRA of SDXL in the original names, without cross-attention": (
        pair("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"),
        {"family": "lora", "layout": "kohya", "base": "sdxl"},
    ),
    "LoRA of SDXL's sizes": (pair("lora_unet_label_emb_0_0", 8, 2816, 1280), {"family": "lora", "base": "sdxl"}),
    "LoRA of SD 1.x in the original names, without cross-attention": (
        pair("lora_unet_output_blocks_9_1_transformer_blocks_0_attn1_to_q", 8, 320, 320),
        {"family": "lora", "layout": "kohya", "base": "sd1"},
    ),
    "LoRA of the largest level of SD 1.x": (
        pair("diffusion_model.input_blocks.2.1.transformer_blocks.0.attn1.to_q", 8, 320, 320),
        {"family": "lora", "layout": "ldm", "base": "sd1"},
    ),
    "LoRA of what SD 1.x and SDXL share": (
        pair(f"{SGM}_attn1_to_q") | pair("lora_unet_input_blocks_1_0_in_layers_2", 8, 320, 320, (3, 3)),
        {"family": "lora", "layout": "kohya", "base": None},
    ),
    "LoRA that does not tell its base": (pair(kohya(f"{ATTN1}.to_k")), {"family": "lora", "base": None}),
    "LoRA of a text encoder": (
        pair("lora_te_text_model_encoder_layers_0_self_attn_k_proj", 8, 768, 768),
        {"family": "lora", "base": "sd1"},
    ),
    "LoRA of SDXL's second text encoder": (
        pair("text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj", 8, 1280, 1280, (), ("lora_A", "lora_B")),
        {"family": "lora", "layout": "diffusers", "base": "sdxl"},
    ),
    "LoRA of Flux": (
        pair("lora_unet_double_blocks_0_img_attn_qkv", into=3072),
        {"family": "lora", "layout": "kohya", "base": "flux"},
    ),
    "LoRA of Flux of diffusers": (
        pair("transformer.single_transformer_blocks.0.attn.to_q", 16, 3072, 3072, (), ("lora_A", "lora_B")),
        {"family": "lora", "layout": "diffusers", "base": "flux"},
    ),
    "LoRA of SD 3": (
        pair("transformer.transformer_blocks.0.attn.to_q", 16, 1536, 1536, (), ("lora_A", "lora_B")),
        {"family": "lora", "base": "sd3"},
    ),
    "LoRA of LTX-Video": (
        pair("transformer.transformer_blocks.0.attn2.to_k", 16, 2048, 2048, (), ("lora_A", "lora_B")),
        {"family": "lora", "base": "other"},
    ),
    "LoRA of Wan": (
        pair("diffusion_model.blocks.0.self_attn.q", 16, 1536, 1536, (), ("lora_A", "lora_B")),
        {"family": "lora", "layout": "ldm", "base": "other"},
    ),
    "LoRA of a language model": (
        pair("base_model.model.model.layers.0.self_attn.q_proj", 16, 4096, 4096, (), ("lora_A", "lora_B")),
        {"family": "lora", "layout": "peft", "base": "other"},
    ),
    # LoRAs by layout and algorithm.
    "LoRA of diffusers": (
        pair(f"unet.{ATTN2}.to_v", 4, 768, 640, (), ("lora.down", "lora.up")),
        {"family": "lora", "layout": "diffusers", "base": "sd1", "rank": "4"},
    ),
    "LoRA of PEFT": (
        pair(f"base_model.model.{ATTN2}.to_v", 4, 768, 640, (), ("lora_A.default", "lora_B.default")),
        {"family": "lora", "layout": "peft", "base": "sd1", "rank": "4"},
    ),
    "LoCon": (
        pair(kohya("down_blocks.0.resnets.0.conv1"), 4, 320, 320, (3, 3))
        | with_alpha(pair(kohya(f"{ATTN2}.to_k"), 64, 768), 1),
        {"family": "lora", "version": "LoCon", "rank": "4-64", "alpha": "1"},
    ),
    "LoRA of a 1x1 convolution": (
        pair(kohya("down_blocks.0.attentions.0.proj_in"), 4, 320, 320, (1, 1)),
        {"version": "LoRA"},
    ),
    "LoHa": (
        {f"{kohya(ATTN2)}_to_k.hada_w{n}_{f}": z(*((640, 6) if f == "a" else (6, 768))) for n in (1, 2) for f in "ab"},
        {"family": "lora", "version": "LoHa", "base": "sd1", "rank": "6", "parameters": 2 * 6 * (640 + 768)},
    ),
    "LoKr": (
        {
            f"{kohya(ATTN2)}_to_k.lokr_w1": z(4, 4),
            f"{kohya(ATTN2)}_to_k.lokr_w2_a": z(160, 6),
            f"{kohya(ATTN2)}_to_k.lokr_w2_b": z(6, 512),
        },
        {"family": "lora", "version": "LoKr", "base": "sdxl", "rank": "6"},
    ),
    "DoRA": (
        pair(kohya(f"{ATTN2}.to_k"), into=768) | {f"{kohya(ATTN2)}_to_k.dora_scale": z(640, 1)},
        {"family": "lora", "version": "DoRA", "base": "sd1"},
    ),
    "DoRA of PEFT": (
        pair(f"unet.{ATTN2}.to_k", 4, 768, 640, (), ("lora_A", "lora_B"))
        | {f"unet.{ATTN2}.to_k.lora_magnitude_vector": z(640)},
        {"family": "lora", "version": "DoRA", "base": "sd1"},
    ),
    "GLoRA": ({f"{kohya(ATTN1)}_to_k.{n}.weight": z(4, 4) for n in ("a1", "a2", "b1", "b2")}, {"version": "GLoRA"}),
    "IA3": (
        {f"{kohya(ATTN1)}_to_k.weight": z(640), f"{kohya(ATTN1)}_to_k.on_input": z(dtype=torch.bool)},
        {"family": "lora", "version": "IA3"},
    ),
    "OFT": ({f"{kohya(ATTN1)}_to_k.oft_blocks": z(8, 80, 80)}, {"family": "lora", "version": "OFT"}),
    "BOFT": ({f"{kohya(ATTN1)}_to_k.oft_blocks": z(3, 8, 80, 80)}, {"family": "lora", "version": "BOFT"}),
    "full differences": (
        {f"{kohya(ATTN2)}_to_k.diff": z(640, 768)},
        {"family": "lora", "version": "full", "base": "sd1", "rank": None},
    ),
}


@pytest.mark.parametrize("row", LOW_RANK)
def test_each_kind_is_told(row):
    assert_told(*LOW_RANK[row])


def test_own_domain_adapter_says_so():
    tensors = pair(f"{ATTN1}.processor.to_q_lora", 4, 32, 32, (), ("down", "up"))
    assert identify(TensorFile("x", tensors)).family == "lora"
    assert identify(TensorFile("x", tensors, {"animatediff_family": "domain_adapter"})).family == "domain_adapter"


@pytest.mark.parametrize(
    ("metadata", "base"),
    [
        ({"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"ss_base_model_version": "sd_v2_768_v"}, "sd2"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-refiner"}, "sdxl-refiner"),
        ({"modelspec.architecture": "something-new"}, None),
        ({}, None),
    ],
)
def test_metadata_tells_the_base_where_nothing_else_does(metadata, base):
    assert identify(TensorFile("x", pair(kohya(f"{ATTN1}.to_k")), metadata)).base == base
    # A wrong word is no match for the width of the text.
    assert identify(TensorFile("x", SDXL_LORA, metadata)).base == "sdxl"


@pytest.mark.parametrize(("said", "base"), [("sd_v2", "sd2"), ("sdxl_base_v1-0", "sd1"), ("", "sd1")])
def test_a_fourth_level_is_no_sdxls_whatever_the_metadata_say(said, base):
    tensors = pair("lora_unet_input_blocks_10_0_in_layers_2", 8, 1280, 1280, (3, 3))
    assert identify(TensorFile("x", tensors, {"ss_base_model_version": said})).base == base


def test_alpha_in_the_metadata_of_diffusers():
    tensors = pair(f"unet.{ATTN2}.to_k", 4, 768, 640, (), ("lora_A", "lora_B"))
    written = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.r": 4, "text_encoder.lora_alpha": 2.5})}
    assert identify(TensorFile("x", tensors, written)).alpha == "2.5-8"
    for odd in ("no json", "[1]", "[" * 100_000, '{"unet.lora_alpha": "8"}'):
        assert identify(TensorFile("x", tensors, {"lora_adapter_metadata": odd})).alpha is None
