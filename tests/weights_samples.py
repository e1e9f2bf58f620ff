"""Weights files under their real names, made of tensors without memory.

What a file is follows from names, shapes and types. So these can have their true sizes.
"""

import torch

from animatediff.weights.identify.weights_file import identify
from animatediff.weights.reading.tensors import TensorFile

LDM = "model.diffusion_model."
SD1_WIDTHS = (320, 640, 1280, 1280)
SDXL_WIDTHS = (320, 640, 1280)
ATTN1 = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
ATTN2 = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
SGM = "lora_unet_input_blocks_4_1_transformer_blocks_0"


def z(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")


def kohya(path):
    return "lora_unet_" + path.replace(".", "_")


# --- motion modules ---


def places(widths, mid):
    down = [(f"down_blocks.{i}", width, 2) for i, width in enumerate(widths)]
    up = [(f"up_blocks.{i}", width, 3) for i, width in enumerate(reversed(widths))]
    blocks = [*down, *([("mid_block", widths[-1], 1)] if mid else []), *up]
    return [(block, i, width) for block, width, number in blocks for i in range(number)]


def motion_module(widths=SD1_WIDTHS, *, mid=False, frames=32):
    """The official layout; 28 tensors a module with position tables."""
    tensors = {}
    for block, i, c in places(widths, mid):
        t = f"{block}.motion_modules.{i}.temporal_transformer"
        b = f"{t}.transformer_blocks.0"
        for norm in (f"{t}.norm", f"{b}.norms.0", f"{b}.norms.1", f"{b}.ff_norm"):
            tensors |= {f"{norm}.weight": z(c), f"{norm}.bias": z(c)}
        for attention in (f"{b}.attention_blocks.0", f"{b}.attention_blocks.1"):
            tensors |= {f"{attention}.to_{n}.weight": z(c, c) for n in "qkv"}
            tensors |= {f"{attention}.to_out.0.weight": z(c, c), f"{attention}.to_out.0.bias": z(c)}
            if frames:
                tensors[f"{attention}.pos_encoder.pe"] = z(1, frames, c)
        for name, out, into in (
            (f"{t}.proj_in", c, c),
            (f"{t}.proj_out", c, c),
            (f"{b}.ff.net.0.proj", 8 * c, c),
            (f"{b}.ff.net.2", c, 4 * c),
        ):
            tensors |= {f"{name}.weight": z(out, into), f"{name}.bias": z(out)}
    return tensors


def renamed(tensors, *pairs):
    for old, new in pairs:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    return tensors


TO_DIFFUSERS = (
    (".temporal_transformer", ""),
    (".attention_blocks.0.pos_encoder.pe", ".pos_embed.pe"),
    (".attention_blocks.1.pos_encoder.pe", ".pos_embed.pe"),
    (".attention_blocks.0", ".attn1"),
    (".attention_blocks.1", ".attn2"),
    (".norms.0", ".norm1"),
    (".norms.1", ".norm2"),
    (".ff_norm", ".norm3"),
)
TO_HOTSHOT = (
    ("motion_modules", "temporal_attentions"),
    (".temporal_transformer", ""),
    ("pos_encoder.pe", "pos_encoder.positional_encoding"),
)
UNET_AROUND = {"conv_in.weight": z(320, 4, 3, 3), "down_blocks.0.resnets.0.conv1.weight": z(320, 320, 3, 3)}


# --- low-rank files ---


def pair(name, rank=8, into=640, out=640, kernel=(), names=("lora_down", "lora_up")):
    ones = (1,) * len(kernel)
    return {f"{name}.{names[0]}.weight": z(rank, into, *kernel), f"{name}.{names[1]}.weight": z(out, rank, *ones)}


def with_alpha(tensors, alpha):
    modules = {name.partition(".")[0] for name in tensors}
    return tensors | {f"{module}.alpha": torch.tensor(float(alpha)) for module in modules}


def motion_lora(rank=64, mid=True, projection="{}.processor.to_{}_lora.{}.weight"):
    tensors = {}
    for block, i, c in places(SD1_WIDTHS, mid):
        for n in (0, 1):
            b = f"{block}.motion_modules.{i}.temporal_transformer.transformer_blocks.0.attention_blocks.{n}"
            for matrix in ("q", "k", "v", "out"):
                tensors[projection.format(b, matrix, "down")] = z(rank, c)
                tensors[projection.format(b, matrix, "up")] = z(c, rank)
    return tensors


def adapter(rank=128, attentions=("attn1", "attn2"), matrices=("q", "k", "v", "out")):
    """Attention processors on all 16 transformer blocks of Stable Diffusion 1.x."""
    blocks = [(f"down_blocks.{b}.attentions.{i}", SD1_WIDTHS[b]) for b in range(3) for i in range(2)]
    blocks += [("mid_block.attentions.0", 1280)]
    blocks += [(f"up_blocks.{b}.attentions.{i}", SD1_WIDTHS[3 - b]) for b in range(1, 4) for i in range(3)]
    tensors = {}
    for block, c in blocks:
        for attention in attentions:
            for matrix in matrices:
                name = f"{block}.transformer_blocks.0.{attention}.processor.to_{matrix}_lora"
                into = 768 if attention == "attn2" and matrix in "kv" else c
                tensors |= {f"{name}.down.weight": z(rank, into), f"{name}.up.weight": z(c, rank)}
    return tensors


def as_kohya(tensors):
    named = {}
    for name, tensor in tensors.items():
        module, factor = name.replace(".processor", "").split("_lora.")
        module = f"{module}_0" if module.endswith("to_out") else module
        named[f"{kohya(module)}.lora_{factor}"] = tensor
    return named


SD1_LORA = with_alpha(
    pair(kohya(f"{ATTN2}.to_k"), into=768) | pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 8, 768, 768),
    4,
)
SDXL_LORA = with_alpha(
    pair(f"{SGM}_attn2_to_k", into=2048)
    | pair("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 8, 768, 768)
    | pair("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 8, 1280, 1280),
    8,
)


def assert_told(tensors, expected):
    """The identity has what is expected; of a note it is enough that it holds the words."""
    found = identify(TensorFile("x", tensors)).model_dump()
    note = expected.get("note")
    assert not note or note in found["note"]
    assert found == found | {name: value for name, value in expected.items() if not (name == "note" and note)}
