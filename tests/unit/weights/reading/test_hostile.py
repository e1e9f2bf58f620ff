"""Malformed, hostile and mismatched files: one clear line each, no code run, no weight touched.

Every row makes a file, says as what a user gives it, and what the error must name.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.weights import motion_modules, textual_inversion
from animatediff.weights.resident import ResidentWeights, ScaledLora
from tests.support_weights import content_hash

ATTN = "down_blocks.0.attentions.0.transformer_blocks.0"
KOHYA = "lora_unet_" + ATTN.replace(".", "_")
TEMPORAL = "down_blocks.0.motion_modules.0.temporal_transformer"
BLOCK = f"{TEMPORAL}.transformer_blocks.0"
LDM = "model.diffusion_model."


@pytest.fixture(scope="module")
def resident():
    """Stable Diffusion 1.x in miniature, with its real text width: that is what tells the bases apart."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=768,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    text = CLIPTextConfig(
        vocab_size=99, hidden_size=768, num_hidden_layers=1, num_attention_heads=12, intermediate_size=64
    )
    motion = MotionUNet(unet, MotionConfig(norm_num_groups=8))
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4)
    return ResidentWeights({"unet": unet, "motion": motion.motion, "vae": vae, "text_encoder": CLIPTextModel(text)})


@pytest.fixture(scope="module")
def untouched(resident):
    return content_hash(resident)


# --- writers: each gives a file's bytes ---


def tensors(content, metadata=None):
    return save({name: tensor.contiguous() for name, tensor in content.items()}, metadata)


def pt(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def header(text, body=b"\0" * 64):
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack("<Q", len(data)) + data + body


def entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


class Runs:
    """Unpickled by anything but a weights-only reader it leaves a file behind."""

    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


CANARY = "canary"


def compressed(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return buffer.getvalue()


def zipped(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def pair(name, rank=2, into=32, out=32, down="lora_down", up="lora_up"):
    return {f"{name}.{down}.weight": torch.ones(rank, into), f"{name}.{up}.weight": torch.ones(out, rank)}


def processors(prefix, names="qkv", rank=2, into=32):
    factors = {}
    for name in [f"to_{letter}" for letter in names] + ["to_out"]:
        factors[f"{prefix}.processor.{name}_lora.down.weight"] = torch.ones(rank, into)
        factors[f"{prefix}.processor.{name}_lora.up.weight"] = torch.ones(into, rank)
    return factors


def domain_adapter():
    names = [f"{ATTN}.attn{n}" for n in (1, 2)]
    return {key: tensor for name in names for key, tensor in processors(name, rank=128).items()}


def motion_lora():
    return processors(f"{BLOCK}.attention_blocks.0")


def checkpoint(in_channels=4, text=768):
    return {
        f"{LDM}input_blocks.0.0.weight": torch.ones(32, in_channels, 3, 3),
        f"{LDM}input_blocks.0.0.bias": torch.ones(32),
        f"{LDM}time_embed.0.weight": torch.ones(128, 32),
        f"{LDM}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(32, text),
        f"{LDM}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(32, text),
        f"{LDM}middle_block.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(32, text),
        "first_stage_model.encoder.conv_in.weight": torch.ones(8, 3, 3, 3),
        "first_stage_model.decoder.conv_in.weight": torch.ones(8, 4, 3, 3),
    }


def sdxl():
    extra = {
        f"{LDM}label_emb.0.0.weight": torch.ones(4, 2816),
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": torch.ones(9, 768),
        "conditioner.embedders.1.model.token_embedding.weight": torch.ones(9, 1280),
    }
    return checkpoint(text=2048) | extra


def sd2():
    return checkpoint(text=1024) | {"cond_stage_model.model.token_embedding.weight": torch.ones(9, 1024)}


def own_motion(change=None, missing=None):
    motion = MotionUNet(
        UNet2DConditionModel(
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=4,
            norm_num_groups=8,
        ),
        MotionConfig(norm_num_groups=8),
    ).motion
    state = dict(motion.state_dict()) | (change or {})
    state.pop(missing, None)
    return state


CONTROLNET = {
    "control_model.input_blocks.0.0.weight": torch.ones(32, 4, 3, 3),
    "control_model.zero_convs.0.0.weight": torch.ones(32, 32, 1, 1),
    "control_model.input_hint_block.0.weight": torch.ones(16, 3, 3, 3),
}
SPARSE_CONTROL = {
    "controlnet_cond_embedding.weight": torch.ones(32, 5, 1, 1),
    "controlnet_down_blocks.0.weight": torch.ones(32, 32, 1, 1),
    f"{TEMPORAL}.proj_in.weight": torch.ones(32, 32),
    f"{TEMPORAL}.norm.weight": torch.ones(32),
}

# name of the row: (file name, bytes, given as, what the line says)
ROWS = {
    # Broken containers.
    "zero length": ("a.safetensors", b"", "lora", "is empty"),
    "zero length ckpt": ("a.ckpt", b"", "checkpoint", "is empty"),
    "four bytes": ("a.safetensors", b"\x01\0\0\0", "lora", "is no weights file"),
    "truncated": ("a.safetensors", tensors(pair(f"{KOHYA}_attn1_to_q"))[:-9], "lora", "not a whole safetensors"),
    "truncated in the header": (
        "a.safetensors",
        tensors(pair(f"{KOHYA}_attn1_to_q"))[:40],
        "lora",
        "not a whole safetensors",
    ),
    "oversized header": (
        "a.safetensors",
        struct.pack("<Q", 1 << 60) + b"{}",
        "checkpoint",
        "is no weights file",
    ),
    "header beyond the file": ("a.safetensors", struct.pack("<Q", 4096) + b"{}", "lora", "not a whole safetensors"),
    "header is no JSON": ("a.safetensors", header(b'{"a":' + b"[" * 90), "lora", "not a whole safetensors"),
    "data beyond the file": (
        "a.safetensors",
        header(entry(shape=(1 << 40,), offsets=(0, 1 << 42))),
        "lora",
        "not a whole safetensors",
    ),
    "shape against offsets": ("a.safetensors", header(entry(shape=(9,))), "lora", "not a whole safetensors"),
    "unknown dtype": ("a.safetensors", header(entry("F99")), "lora", "not a whole safetensors"),
    "overlapping tensors": (
        "a.safetensors",
        header({"a": entry()["a"], "b": entry(offsets=(8, 24))["a"]}),
        "lora",
        "not a whole safetensors",
    ),
    "truncated zip": ("a.ckpt", pt({"a": torch.ones(999)})[:-99], "checkpoint", "not a whole PyTorch file"),
    "a zip of a folder": ("a.ckpt", zipped("model.safetensors", b"x"), "checkpoint", "is a zip archive, not"),
    "zip bomb": ("a.ckpt", compressed(pt({"a": torch.zeros(1 << 20)})), "checkpoint", "compressed records"),
    "web page": ("a.safetensors", b"<!DOCTYPE html><html>", "lora", "is a web page"),
    "server's error": ("a.safetensors", b'{"error": "unauthorized"}', "lora", "is a JSON text"),
    "LFS pointer": ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "checkpoint", "Git LFS pointer"),
    "GGUF": ("a.gguf", b"GGUF\x03\0\0\0", "checkpoint", "GGUF"),
    "picture": ("a.png", b"\x89PNG\r\n\x1a\n", "embedding", "is a picture"),
    # Pickles that would run code, in every wrapping.
    "zip pickle runs": ("a.ckpt", pt({"a": torch.ones(2), "x": Runs()}), "checkpoint", r"wants to run \w+\.system"),
    "old pickle runs": (
        "a.pt",
        pt({"x": Runs()}, _use_new_zipfile_serialization=False),
        "embedding",
        r"wants to run \w+\.system",
    ),
    "plain pickle runs": ("a.pt", pickle.dumps({"x": Runs()}, protocol=2), "embedding", "not a whole PyTorch|wants to"),
    "plain pickle 4 runs": (
        "a.bin",
        pickle.dumps({"x": Runs()}, protocol=4),
        "lora",
        "not a whole PyTorch|wants to",
    ),
    "pickle named safetensors runs": (
        "a.safetensors",
        pt({"state_dict": {"x": Runs()}}),
        "motion_module",
        r"wants to run \w+\.system",
    ),
    "in a nested dict": (
        "a.pt",
        pt({"string_to_param": OrderedDict({"*": Runs()})}),
        "embedding",
        r"wants to run \w+\.system",
    ),
    "a pickled module": ("a.pt", pt(torch.nn.Linear(2, 2)), "checkpoint", "wants to run torch.nn"),
    # Pickles of something else.
    "no dict": ("a.pt", pt([torch.ones(2)]), "embedding", "holds a list, not a dict of tensors"),
    "no tensors": ("a.pt", pt({"a": "b"}), "lora", "holds no tensors"),
    "a terabyte of four bytes": ("a.pt", pt({"a": torch.ones(1).expand(1 << 38)}), "checkpoint", "more than the file"),
    "sparse": ("a.pt", pt({"a": torch.ones(2, 2).to_sparse()}), "lora", "sparse, quantised or absent"),
    "numpy array": ("a.pt", pt({"a": np.ones(3, dtype=object)}), "lora", "not a whole PyTorch|wants to run|no tensors"),
    # One family taken for another, and other bases.
    "LoRA as checkpoint": ("a.safetensors", tensors(pair(f"{KOHYA}_attn1_to_q")), "checkpoint", "LoRA.*`loras:`"),
    "checkpoint as LoRA": ("a.safetensors", tensors(checkpoint()), "lora", "checkpoint.*`checkpoint:`"),
    "adapter as MotionLoRA": (
        "a.safetensors",
        tensors(domain_adapter()),
        "motion_lora",
        "domain adapter.*`domain_adapter:`",
    ),
    "LoRA as MotionLoRA": ("a.safetensors", tensors(pair(f"{KOHYA}_attn1_to_q")), "motion_lora", "LoRA.*`loras:`"),
    "MotionLoRA as LoRA": ("a.safetensors", tensors(motion_lora()), "lora", "MotionLoRA.*`motion_loras:`"),
    "MotionLoRA as adapter": ("a.safetensors", tensors(motion_lora()), "domain_adapter", "MotionLoRA.*`motion_loras:`"),
    "motion module as checkpoint": (
        "a.safetensors",
        tensors(own_motion()),
        "checkpoint",
        "motion module.*`motion_module:`",
    ),
    "motion module as MotionLoRA": (
        "a.safetensors",
        tensors(own_motion()),
        "motion_lora",
        "motion module.*`motion_module:`",
    ),
    "checkpoint as motion module": (
        "a.safetensors",
        tensors(checkpoint()),
        "motion_module",
        "checkpoint.*`checkpoint:`",
    ),
    "MotionLoRA as motion module": (
        "a.safetensors",
        tensors(motion_lora()),
        "motion_module",
        "MotionLoRA.*`motion_loras:`",
    ),
    "SparseCtrl as motion module": ("a.safetensors", tensors(SPARSE_CONTROL), "motion_module", "SparseCtrl"),
    "ControlNet as checkpoint": ("a.safetensors", tensors(CONTROLNET), "checkpoint", "ControlNet"),
    "embedding as LoRA": (
        "a.safetensors",
        tensors({"emb_params": torch.ones(2, 768)}),
        "lora",
        "textual inversion.*`embeddings:`",
    ),
    "LoRA as embedding": ("a.safetensors", tensors(pair(f"{KOHYA}_attn1_to_q")), "embedding", "LoRA.*`loras:`"),
    "SDXL LoRA": (
        "a.safetensors",
        tensors(pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", into=2048, out=640)),
        "lora",
        "SDXL",
    ),
    "SD 2 LoRA": ("a.safetensors", tensors(pair(f"{KOHYA}_attn2_to_k", into=1024)), "lora", "Stable Diffusion 2"),
    "Flux LoRA": (
        "a.safetensors",
        tensors(pair("lora_unet_double_blocks_0_img_attn_qkv", into=64)),
        "lora",
        "Flux",
    ),
    "SDXL checkpoint": ("a.safetensors", tensors(sdxl()), "checkpoint", "SDXL"),
    "SD 2 checkpoint": ("a.safetensors", tensors(sd2()), "checkpoint", "Stable Diffusion 2"),
    "inpainting checkpoint": ("a.safetensors", tensors(checkpoint(in_channels=9)), "checkpoint", "inpainting"),
    "nothing known": ("a.safetensors", tensors({"a.b": torch.ones(2)}), "lora", r"a\.b"),
    "nothing known as checkpoint": ("a.safetensors", tensors({"a.b": torch.ones(2)}), "checkpoint", r"a\.b"),
    # Of the right family, and wrong inside.
    "a key that is nowhere": (
        "a.safetensors",
        tensors(pair(f"{KOHYA}_attn1_to_q") | pair("lora_unet_down_blocks_7_attentions_0_proj_in")),
        "lora",
        "lora_unet_down_blocks_7_attentions_0_proj_in",
    ),
    "half a pair": (
        "a.safetensors",
        tensors({f"{KOHYA}_attn1_to_q.lora_down.weight": torch.ones(2, 32)}),
        "lora",
        r"to_q: its factors are incomplete.*: down",
    ),
    "ranks disagree": (
        "a.safetensors",
        tensors(
            {
                f"{KOHYA}_attn1_to_q.lora_down.weight": torch.ones(2, 32),
                f"{KOHYA}_attn1_to_q.lora_up.weight": torch.ones(32, 3),
            }
        ),
        "lora",
        "rank",
    ),
    "another width": ("a.safetensors", tensors(pair(f"{KOHYA}_attn1_to_q", into=320, out=320)), "lora", "320"),
    "NaN in a factor": (
        "a.safetensors",
        tensors({key: tensor * float("nan") for key, tensor in pair(f"{KOHYA}_attn1_to_q").items()}),
        "lora",
        "NaN",
    ),
    "infinite alpha": (
        "a.safetensors",
        tensors(pair(f"{KOHYA}_attn1_to_q") | {f"{KOHYA}_attn1_to_q.alpha": torch.tensor(float("inf"))}),
        "lora",
        "alpha is no finite number",
    ),
    "integer factors": (
        "a.safetensors",
        tensors({key: tensor.to(torch.int8) for key, tensor in pair(f"{KOHYA}_attn1_to_q").items()}),
        "lora",
        "int8",
    ),
    "IA3": (
        "a.safetensors",
        tensors({f"{KOHYA}_attn1_to_k.weight": torch.ones(32), f"{KOHYA}_attn1_to_k.on_input": torch.tensor(False)}),
        "lora",
        "IA3, which is not applied",
    ),
    "OFT": ("a.safetensors", tensors({f"{KOHYA}_attn1_to_k.oft_blocks": torch.ones(4, 8, 8)}), "lora", "OFT"),
    "LoHa incomplete": (
        "a.safetensors",
        tensors(
            {f"{KOHYA}_attn1_to_q.hada_w1_a": torch.ones(32, 2), f"{KOHYA}_attn1_to_q.hada_w1_b": torch.ones(2, 32)}
        ),
        "lora",
        "incomplete.*hada_w1_a",
    ),
    "MotionLoRA of NaN": (
        "a.safetensors",
        tensors({key: tensor * float("inf") for key, tensor in motion_lora().items()}),
        "motion_lora",
        "NaN",
    ),
    "checkpoint lacks keys": ("a.safetensors", tensors(checkpoint()), "checkpoint", "lacks|not \\["),
    "embedding of NaN": ("a.pt", pt({"emb_params": torch.full((1, 768), float("nan"))}), "embedding", "NaN"),
    "embedding of 300 vectors": ("a.pt", pt({"emb_params": torch.ones(300, 768)}), "embedding", "300"),
    "motion module lacks a key": (
        "a.safetensors",
        tensors(own_motion(missing=f"{TEMPORAL}.proj_out.bias")),
        "motion_module",
        "proj_out.bias",
    ),
    "motion module of other shapes": (
        "a.safetensors",
        tensors(own_motion({f"{TEMPORAL}.proj_out.bias": torch.ones(7)})),
        "motion_module",
        "proj_out.bias",
    ),
    "learned positions": (
        "a.safetensors",
        tensors(own_motion({f"{BLOCK}.attention_blocks.0.pos_encoder.pe": torch.ones(1, 32, 32)})),
        "motion_module",
        "position",
    ),
    "PIA": (
        "a.safetensors",
        tensors(own_motion({"conv_in.weight": torch.ones(32, 9, 3, 3), "conv_in.bias": torch.ones(32)})),
        "motion_module",
        "PIA",
    ),
    "motion module of NaN": (
        "a.safetensors",
        tensors(own_motion({f"{TEMPORAL}.proj_out.bias": torch.full((32,), float("nan"))})),
        "motion_module",
        "NaN",
    ),
}


def use(resident, role, uri):
    if role == "motion_module":
        motion_modules.read(uri)
    elif role == "embedding":
        textual_inversion.read(uri)
    elif role == "checkpoint":
        resident.load(checkpoint=uri)
    else:
        resident.load(scaled_loras=[ScaledLora(uri, 1, role)])


def test_there_are_enough_rows():
    assert len(ROWS) >= 40


@pytest.mark.parametrize("row", ROWS)
def test_one_clear_line(row, tmp_path, monkeypatch, resident, untouched):
    name, content, role, expected = ROWS[row]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=expected) as caught:
        use(resident, role, str(tmp_path / name))
    line = str(caught.value)
    assert name in line
    assert "\n" not in line
    assert len(line) < 500
    assert "Traceback" not in line
    assert not (tmp_path / CANARY).exists()
    assert content_hash(resident) == untouched


def test_the_canary_would_sing(tmp_path, monkeypatch):
    """The pickles above do run code in a reader that is not careful."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps({"x": Runs()}, protocol=2))
    assert (tmp_path / CANARY).exists()


def test_a_checkpoint_of_nan_leaves_the_base(resident, untouched, tmp_path):
    """All keys and shapes are right: only copying it shows the fault."""
    state = {name: tensor.clone() for name, tensor in resident._states["unet"].items()}
    state["mid_block.resnets.0.conv1.bias"].fill_(float("nan"))
    (tmp_path / "unet").mkdir()
    save_file(state, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "unet" / "config.json").write_text(json.dumps(dict(resident._modules["unet"].config)))
    with pytest.raises(UserError, match=r"mid_block.resnets.0.conv1.bias NaN"):
        resident.load(checkpoint=str(tmp_path))
    assert content_hash(resident) == untouched
